"""The experiments of chapter 11 run small and go on; their tables are what the chapter says."""

import math

import pytest
import torch
from tables import VERSES, read

from mylib.experiments import torn, wikitext
from mylib.files import data_path, read_safetensors
from mylib.leaks import certificate
from mylib.masks import bidirectional, causal
from mylib.model import FORMAT, GPT, GPTConfig
from mylib.objectives import AbsorbingDiffusion, NextToken, Rows
from mylib.tokenizer import BOS, EOS, MASK, load_tokenizer
from mylib.vocabulary import compact, fingerprint, ordinary

ARTICLES = [" = A goose = \n \n The goose <unk> flew home , and nobody saw it . \n" * 5] * 3


# -- WikiText-2 ----------------------------------------------------------------------------------


def test_all_regimes_run_and_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(wikitext, "wikitext2", lambda split: ARTICLES)
    monkeypatch.setattr(wikitext, "gpt2_tokenizer", load_tokenizer)
    out = tmp_path / "wikitext.csv"
    command = ["--smoke", "--tokens", "300", "--out", str(out)]
    with pytest.raises(ValueError, match="single bytes"):  # the Gazette's first tokens are words
        wikitext.main(command)
    command[2] = "800"
    wikitext.main(command)
    rows, about = read(out)
    assert about["command"].startswith("python -m mylib.experiments.wikitext --smoke")
    assert {row["regime"] for row in rows} == {"frequencies", *wikitext.regimes(100)}
    for row in rows:
        for name, marks in (
            ("bits", ("exact", "bound")),
            ("nats", ("exact", "not comparable", "leak")),
        ):
            assert (row[name] != "") == (row["mark"] in marks)
            low, value, high = (float(row[n] or 0) for n in (f"{name}_low", name, f"{name}_high"))
            assert low <= value <= high
        assert (int(row["leaks"]) > 0) == (row["mark"] == "leak"), row
    before = out.read_text()
    wikitext.main(command)  # nothing is trained twice
    assert out.read_text() == before


def test_pieces_are_the_articles():
    encoding = load_tokenizer()
    pieces = wikitext.Pieces.of(ARTICLES, encoding)
    assert all(p[0] == BOS and p[-1] == EOS and len(p) <= 128 for p in pieces.documents)
    for number, text in enumerate(ARTICLES):
        mine = [p for p, a in zip(pieces.documents, pieces.article, strict=True) if a == number]
        assert len(mine) > 1  # cut, and nothing lost
        assert encoding.decode(torch.cat([p[1:-1] for p in mine]).tolist()) == text
        assert pieces.characters[number] == len(text)


def test_the_numbers_are_those_of_a_network_that_knows_nothing():
    """Uniform guesses: each answer costs log V, forward, backward and as a bound."""
    pieces = wikitext.Pieces.of(ARTICLES, load_tokenizer())
    model = GPT(GPTConfig(830, n_embd=8, n_layer=1, n_head=2))
    torch.nn.init.zeros_(model.wte.weight)
    answers = sum(len(p) - 1 for p in pieces.documents)
    for name, (_, questions) in wikitext.regimes(830).items():
        for one in questions:
            counts = wikitext.counts_of(model, one, pieces)
            found = wikitext.summary(counts, one.mark)
            if one.mark == "exact":
                assert found["answers"] == answers, name
                bits = answers * math.log2(830) / sum(map(len, ARTICLES))
                assert found["bits"] == pytest.approx(bits, abs=1e-4)
            if one.mark != "bound":
                assert found["nats"] == pytest.approx(math.log(830), abs=1e-4)
            else:  # every position of every canvas, weighted T / k
                whole = len(pieces.documents) * 128 * math.log(830)
                assert float(counts[:, 1].sum()) == pytest.approx(whole, rel=1e-4)
    half = next(q for q in wikitext.regimes(830)["prefix"][1] if q.least)
    asked = wikitext.summary(wikitext.counts_of(model, half, pieces), half.mark)["answers"]
    assert asked == sum(len(p) - half.least for p in pieces.documents if len(p) > half.least)


def test_frequencies():
    pieces = wikitext.Pieces.of(ARTICLES, load_tokenizer())
    words = torch.cat([p[1:] for p in pieces.documents])
    counts = torch.bincount(words, minlength=830) + 1
    wanted = -(counts / counts.sum()).log()[words].double().mean()
    found = wikitext.summary(wikitext.unigram(pieces, pieces, 830), "exact")
    assert found["nats"] == pytest.approx(float(wanted), abs=1e-4)


def test_the_committed_table_of_regimes():
    rows, about = read(data_path("results/wikitext.csv"))
    assert about["settings"]["train"] == "valid" and about["settings"]["epochs"] == 2
    regimes = wikitext.regimes(about["settings"]["config"]["vocab_size"])
    wanted = {(n, q.name): q.mark for n, (_, questions) in regimes.items() for q in questions}
    found = {(row["regime"], row["judged"]): row for row in rows}
    assert found.keys() == wanted.keys() | {("frequencies", "forward")}
    for key, mark in wanted.items():
        assert found[key]["mark"] == mark and (int(found[key]["leaks"]) > 0) == (mark == "leak")
    exact = [float(row["bits"]) for row in rows if row["mark"] == "exact"]
    assert max(exact) == float(found["frequencies", "forward"]["bits"])  # all learnt something
    assert float(found["next, mask open", "forward"]["nats"]) < 0.5 * float(
        found["next", "forward"]["nats"]
    )


# -- the torn sonnet -----------------------------------------------------------------------------


def test_torn_runs_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(torn, "tiny_shakespeare", lambda: VERSES * 8)
    out, model = tmp_path / "torn.csv", tmp_path / "bard.safetensors"
    command = ["--smoke", "--out", str(out), "--model", str(model)]
    torn.main(command)
    rows, about = read(out)
    assert about["command"].startswith("python -m mylib.experiments.torn --smoke")
    assert len(rows) == 3 * len(torn.SHARES)
    for row in rows:
        assert float(row["right_low"]) <= float(row["right"]) <= float(row["right_high"])
        assert float(row["nats_low"]) <= float(row["nats"]) <= float(row["nats_high"])
    assert not list(tmp_path.glob(".*"))
    before = out.read_text(), model.read_bytes()
    torn.main(command)  # nothing is trained or measured twice
    assert (out.read_text(), model.read_bytes()) == before


def test_ranks_are_learnt_on_nine_tenths(tmp_path, monkeypatch):
    monkeypatch.setattr(torn, "tiny_shakespeare", lambda: "ab " * 900 + "zq " * 100)
    monkeypatch.setattr(torn, "data_path", lambda name: tmp_path / name)
    torn.main(["--ranks", "--tokens", "258"])
    tokens = ordinary(load_tokenizer(tmp_path / "shakespeare.tiktoken"))
    assert len(tokens) == 258 and b"ab" in tokens and b" ab" in tokens and b"zq" not in tokens


def test_holes_and_readers():
    windows = torch.randint(6, 830, (3, 22), generator=torch.Generator().manual_seed(0))
    windows[:, 0], windows[:, -1] = BOS, EOS
    holes = torn.hidden(windows, 0.25)
    assert holes.sum(1).tolist() == [5, 5, 5] and not holes[:, [0, -1]].any()
    config = GPTConfig(830, n_positions=22, n_embd=8, n_layer=1, n_head=2)
    model = GPT.init(config, torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = model(windows.masked_fill(holes, MASK), bidirectional)[holes].log_softmax(-1)
        given = model(windows, causal)[:, :-1][holes[:, 1:]].log_softmax(-1)
    assert torch.allclose(torn.both(model, windows, holes), whole, atol=1e-5)
    assert torch.allclose(torn.left(model, windows, holes), given, atol=1e-5)
    answers = windows[holes]
    sure = torch.full((15, 830), -50.0)
    sure[torch.arange(10), answers[:10]] = 0.0  # the first two windows are known
    found = torn.scores(sure, windows, holes)
    assert (found["hidden"], found["right"]) == (15, 0.6667)
    assert found["nats"] == pytest.approx(50 / 3, abs=1e-4)


def test_the_bard_belongs_to_its_tokens():
    path = data_path("checkpoints/bard.safetensors")
    _, header = read_safetensors(path, FORMAT)
    encoding = load_tokenizer(data_path("shakespeare.tiktoken"))
    assert header["ranks"] == fingerprint(encoding) and header["objective"] == repr(torn.OBJECTIVE)
    assert GPT.load(path).config.vocab_size == encoding.n_vocab
    assert path.stat().st_size < 2_000_000
    assert fingerprint(compact(encoding)) == fingerprint(encoding)


def test_the_committed_table_of_holes():
    rows, _ = read(data_path("results/torn.csv"))
    found = {(float(row["share"]), row["reader"]): row for row in rows}
    assert found.keys() == {(s, r) for s in torn.SHARES for r in ("both", "left", "frequent")}
    # Where few words are hidden, both sides are worth more than the whole left side alone; where
    # many are, less.
    for share in (0.04, 0.15):
        assert float(found[share, "both"]["nats_high"]) < float(found[share, "left"]["nats_low"])
    for share in (0.5, 0.8):
        assert float(found[share, "both"]["nats_low"]) > float(found[share, "left"]["nats_high"])
    for share in torn.SHARES:
        assert float(found[share, "left"]["right"]) > float(found[share, "frequent"]["right"])


def test_the_bard_meets_its_table(real_data):
    """On held-out windows: its stored accuracies, and no leak in either of its objectives."""
    if not (real_data / "tinyshakespeare" / "input.txt").exists():
        pytest.skip(f"no Tiny Shakespeare in {real_data}")
    rows, _ = read(data_path("results/torn.csv"))
    found = {(float(row["share"]), row["reader"]): row for row in rows}
    model = GPT.load(data_path("checkpoints/bard.safetensors"))
    windows = torch.stack(torn.streams()[1].windows()[::5])  # from the whole tenth
    holes = torn.hidden(windows, 0.3)
    for name, reader in (("both", torn.both), ("left", torn.left)):
        again = torn.scores(reader(model, windows, holes), windows, holes)
        stored = found[0.3, name]
        assert again["right_low"] <= float(stored["right_high"])
        assert float(stored["right_low"]) <= again["right_high"]
    rows = Rows.padded([window[:12] for window in windows[:2]])
    for objective in (NextToken(), AbsorbingDiffusion()):
        assert certificate(objective, rows, 4).sound
