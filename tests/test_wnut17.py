"""The experiment of chapter 05 runs (tiny) and resumes; its table holds what the chapter says."""

import pytest
import torch
from tables import read
from tiktoken import Encoding

from mylib.datasets import Sentence
from mylib.experiments import wnut17
from mylib.files import data_path
from mylib.metrics import bootstrap_over, f1_of
from mylib.tokenizer import load_tokenizer

SOME = [
    Sentence(("Ada", "lives", "in", "Whitby"), ("B-person", "O", "O", "B-location")),
    Sentence(("the", "Rolling", "Stones", "play"), ("O", "B-group", "I-group", "O")),
    Sentence(("#", "rain", "again"), ("O", "O", "O")),
]


@pytest.fixture
def offline(monkeypatch):
    """Three sentences over and over, and the Gazette's tokens: no file of WNUT-17, no GPT-2."""
    monkeypatch.setattr(wnut17, "wnut17", lambda split: SOME * 8)
    monkeypatch.setattr(wnut17, "gpt2_tokenizer", load_tokenizer)


def test_it_runs_and_goes_on(offline, tmp_path):
    out = tmp_path / "wnut17.csv"
    command = ["--smoke", "--out", str(out)]
    wnut17.main(command)
    rows, about = read(out)
    assert about["command"].startswith("python -m mylib.experiments.wnut17 --smoke")
    assert about["sentences"] == {"train": 24, "dev": 24, "test": 24}
    assert about["gold"] == "210" * 8
    assert [row["reader"] for row in rows] == ["causal", "open", "twice"]
    for row in rows:
        counts = wnut17.counted(row["right"], row["predicted"], about["gold"])
        assert round(float(f1_of(counts.sum(0))), 4) == float(row["f1"])
    *kept, last = out.read_text().splitlines(keepends=True)
    out.write_text("".join(kept))
    wnut17.main(command)
    assert out.read_text() == "".join(kept) + last


def test_rare_pieces_become_their_shape():
    encoding: Encoding = load_tokenizer()
    vocabulary = wnut17.Vocabulary(SOME * 3, encoding, least=3)
    document = vocabulary.document(Sentence(("Ada", "Zoo"), ("B-person", "O")))
    assert len(document.ids) == 1 + len(encoding.encode_ordinary(" Ada Zoo"))
    assert document.ids[0] == wnut17.BEGIN
    assert int(document.ids[1]) > wnut17.SHAPES  # seen in training
    assert set(document.ids[2:].tolist()) <= set(range(1, len(vocabulary)))
    assert len(vocabulary) == 1 + wnut17.SHAPES + len(vocabulary.number)
    rare = wnut17.Vocabulary(SOME, encoding, least=3)
    assert int(rare.document(SOME[0]).ids.max()) <= wnut17.SHAPES + len(rare.number)


@pytest.mark.parametrize("piece", [b"\xff", b" ", b"", b"@", b" iPhone", " Zoë".encode()])
def test_every_piece_has_a_shape(piece):
    assert 0 <= wnut17.shape(piece) < wnut17.SHAPES


def test_a_count_that_is_no_digit_is_refused():
    with pytest.raises(ValueError, match="10 entities"):
        wnut17.digits(torch.tensor([3, 10]))


def test_the_committed_table():
    rows, about = read(data_path("results/wnut17.csv"))
    assert about["command"] == "python -m mylib.experiments.wnut17"
    assert about["sentences"] == {"train": 3394, "dev": 1009, "test": 1287}
    assert len(about["tags"]) == 13 and len(about["gold"]) == 1287
    seeds = {row["seed"] for row in rows}
    assert {(r["reader"], r["seed"]) for r in rows} == {
        (reader, seed) for reader in wnut17.READERS for seed in seeds
    }
    for row in rows:
        counts = wnut17.counted(row["right"], row["predicted"], about["gold"])
        assert (counts[:, 0] <= counts[:, 1:].amin(1)).all()
        assert round(float(f1_of(counts.sum(0))), 4) == float(row["f1"])
        score = bootstrap_over(counts, f1_of)
        assert score.low <= float(row["f1"]) <= score.high
        assert float(row["token_accuracy"]) > 0.9  # and F1 is far below
        assert float(row["f1"]) < 0.5
