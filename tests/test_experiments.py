"""The experiment scripts run (tiny), resume, and say how their files were made."""

import math

import pytest
import torch
from tables import VERSES, read

from mylib.experiments import leakage, opening, optimiser, results, shakespeare
from mylib.files import data_path
from mylib.tokenizer import decode


@pytest.fixture(autouse=True)
def verses(monkeypatch):
    """A text that needs no download."""
    for script in (leakage, opening, optimiser, shakespeare):
        monkeypatch.setattr(script, "tiny_shakespeare", lambda: VERSES)


def test_optimiser(tmp_path):
    out = tmp_path / "optimiser.csv"
    command = ["--smoke", "--out", str(out)]
    optimiser.main(command)
    rows, about = read(out)
    assert about["command"].startswith("python -m mylib.experiments.optimiser --smoke")
    assert about["torch"] == torch.__version__.split("+")[0]
    assert about["settings"]["seeds"] == [0]
    assert {row["part"] for row in rows} == {"quality", "speed"}
    assert {row["schedule"] for row in rows} == {"linear", "cosine", "constant", ""}
    for row in rows:
        assert float(row["low"]) <= float(row["value"]) <= float(row["high"]), row
    # A killed run goes on: what is there stays, what is missing is measured again.
    *kept, last = out.read_text().splitlines(keepends=True)
    out.write_text("".join(kept))
    optimiser.main(command)
    again = out.read_text().splitlines(keepends=True)
    assert again[:-1] == kept
    assert again[-1].rsplit(",", 1)[0] == last.rsplit(",", 1)[0]  # but for the seconds


def test_leakage(tmp_path):
    out = tmp_path / "leakage.csv"
    command = ["--smoke", "--out", str(out)]
    leakage.main(command)
    rows, about = read(out)
    assert about["command"].startswith("python -m mylib.experiments.leakage --smoke")
    assert {(row["text"], row["mask"]) for row in rows} == {
        (text, mask) for text in ("shakespeare", "gazette") for mask in ("none", "causal")
    }
    for row in rows:
        whole = float(row["last_over_T"]) + float(row["rest"])
        assert math.isclose(float(row["mean"]), whole, abs_tol=1e-4)
        assert float(row["mean_low"]) <= float(row["mean"]) <= float(row["mean_high"])
    before = out.read_text()
    leakage.main(command)  # all there: nothing is measured again
    assert out.read_text() == before


def test_opening(tmp_path):
    out = tmp_path / "opening.csv"
    command = ["--smoke", "--out", str(out), "--lines", "40"]
    opening.main(command)
    rows, about = read(out)
    assert about["command"].startswith("python -m mylib.experiments.opening --smoke")
    assert len(rows) == 6
    before = out.read_text()
    opening.main(command)  # all there: nothing is measured again
    assert out.read_text() == before


def test_two_embeddings_of_one_line():
    alone = torch.eye(3)
    assert opening.judge(alone, alone) == {"apart": 0.0, "finds_itself": 1.0}
    found = opening.judge(alone, alone[[1, 0, 2]])  # two lines have changed places
    assert found == {"apart": pytest.approx(math.sqrt(2), abs=1e-6), "finds_itself": 0.3333}


def test_only_the_flag_gives_a_line_two_embeddings():
    """The committed table: three seeds, two backends, three conversions."""
    rows, _ = read(data_path("results/opening.csv"))
    assert len(rows) == 18
    for row in rows:
        flag = (row["backend"], row["conversion"]) == ("sdpa", "module flag only")
        apart, found = float(row["apart"]), float(row["finds_itself"])
        assert (apart > 0.3 and found < 0.9) if flag else (apart < 1e-4 and found == 1), row


def test_the_leaky_loss_is_the_last_word_s_share():
    """The committed table: on the Gazette within the interval, on Shakespeare within 6 %."""
    rows, _ = read(data_path("results/leakage.csv"))
    assert len(rows) == 36
    for row in rows:
        mean, last = float(row["mean"]), float(row["last_over_T"])
        if row["mask"] == "causal":
            assert mean > 5 * float(row["last_over_T_high"])
        elif row["text"] == "gazette":
            assert float(row["last_over_T_low"]) <= mean <= float(row["last_over_T_high"]), row
        else:
            assert float(row["rest"]) < 0.06 * last, row


def test_shakespeare(tmp_path):
    out = tmp_path / "shakespeare.csv"
    shakespeare.main(["--smoke", "--out", str(out)])
    rows, about = read(out)
    assert [row["step"] for row in rows] == ["0", "0", "1", "1", "2", "2"]
    for row in rows:
        nats, bits = float(row["nats_per_token"]), float(row["bits_per_character"])
        assert 0 < nats < 10 and 0 < bits < 10
    held_out = about["held_out_windows"]
    nats = float(rows[-2]["nats_per_token"]) * held_out["predicted"] / held_out["characters"]
    assert math.isclose(nats / math.log(2), float(rows[-2]["bits_per_character"]), rel_tol=1e-3)
    strip = about["strip"]
    assert len(strip["ids"]) == len(strip["words"]) == len(strip["surprise_nats"]) == 24
    assert strip["text"] == decode(strip["ids"]) and "\n" not in strip["text"]
    assert strip["text_before"] + "".join(strip["pieces"]) in " " + VERSES


def test_characters_are_those_of_the_predicted_tokens():
    from mylib.datasets import Stream

    windows = Stream.of(VERSES, 16).windows()
    text = "".join(decode(w[1:].tolist()) for w in windows)
    spaces = sum(shakespeare.bytes_of(int(w[1])).startswith(b" ") for w in windows)
    assert shakespeare.characters(windows) == len(text) + spaces  # `decode` strips a leading space


def test_schedules_end_low_and_rise_first():
    for name, schedule in optimiser.SCHEDULES.items():
        found = [schedule(step, 20, warmup=0.1) for step in range(20)]
        assert found[:2] == [0.5, 1.0], name
        assert found[1:] == sorted(found[1:], reverse=True), name
        assert min(found) > 0, name


def test_a_table_of_other_settings_is_refused(tmp_path):
    path = tmp_path / "table.csv"
    results.Table(path, ("a",), ("b",), {"steps": 1}, {})
    with pytest.raises(ValueError, match="was made with"):
        results.Table(path, ("a",), ("b",), {"steps": 2}, {})


def test_a_row_is_measured_once(tmp_path):
    made = tmp_path / "table.csv", ["seed"], ["nats"], {}, {}
    table = results.Table(*made)
    table.add(seed=0, nats=1.5)
    table.add(seed=0, nats=2.5)
    table.add(seed=1, nats=2.5)
    assert [row["nats"] for row in results.Table(*made).rows] == ["1.5", "2.5"]
