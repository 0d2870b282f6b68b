"""The experiment of chapter 04 runs (tiny) and resumes; its table is what the chapter says."""

import pytest
from tables import VERSES, read

from mylib.experiments import masked
from mylib.files import data_path


def test_it_runs_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(masked, "tiny_shakespeare", lambda: VERSES)
    command = ["--smoke", "--out", str(tmp_path)]
    masked.main(command)
    start, sides = tmp_path / "masked_start.csv", tmp_path / "masked_sides.csv"
    rows, about = read(start)
    assert about["command"].startswith("python -m mylib.experiments.masked --smoke")
    kinds = {(asked, begin) for asked in ("same", "next") for begin in ("scratch", "causal")}
    assert {(row["asked"], row["begin"]) for row in rows} == kinds
    assert {row["begin"] for row in read(sides)[0]} == {"both", "left"}
    for row in rows + read(sides)[0]:
        assert float(row["low"]) <= float(row["mean"]) <= float(row["high"])
    before = start.read_text(), sides.read_text()
    masked.main(command)  # all there: nothing is measured again
    assert (start.read_text(), sides.read_text()) == before


@pytest.fixture(scope="module")
def table():
    return {part: read(data_path(f"results/masked_{part}.csv"))[0] for part in masked.PARTS}


def means(table, part, seeds, **wanted):
    found = [float(row["mean"]) for row in table[part] if wanted.items() <= row.items()]
    assert len(found) == seeds, wanted
    return found


def test_what_a_causal_start_is_worth(table):
    """Asked one place before: far ahead at step 25, caught up at 200. In the same place: behind."""

    def of(asked, begin, step):
        return means(table, "start", 3, asked=asked, begin=begin, step=step)

    assert max(of("next", "causal", "25")) < min(of("next", "scratch", "25")) - 1
    assert max(of("next", "scratch", "200")) < min(of("next", "causal", "200"))
    for step in ("25", "50", "100", "200"):
        assert min(of("same", "causal", step)) > max(of("same", "scratch", step))


def test_no_run_is_below_the_oracle(table):
    assert all(float(row["low"]) > 0 for row in table["start"])


def test_both_sides_are_worth_something_on_shakespeare(table):
    both, left = (means(table, "sides", 2, begin=side, step="1600") for side in ("both", "left"))
    assert max(both) < min(left)
