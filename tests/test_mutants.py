"""The small bugs of `tests/mutants/` fit the code as it is, and the committed table says of each
that a test notices it. (Running them takes some minutes: `python tests/mutants/run.py`.)"""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "mutants"))
import run  # noqa: E402

sys.path.pop(0)
MUTANTS, RESULTS = run.load(), run.read_results()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant["id"])
def test_a_mutant_fits_and_its_tests_exist(mutant):
    assert set(mutant) == {"id", "file", "old", "new", "what", "tests"} and mutant["tests"]
    run.mutated((ROOT / mutant["file"]).read_text(encoding="utf-8"), mutant)
    for test in mutant["tests"]:
        file, _, name = test.partition("::")
        assert f"def {name}" in (ROOT / file).read_text(encoding="utf-8"), test


def test_they_are_many_and_in_every_part_of_the_package():
    names = [mutant["id"] for mutant in MUTANTS]
    assert len(names) == len(set(names)) >= 45
    package = ROOT / "mylib"
    parts = {path.stem for path in package.glob("*.py")} - {"__init__", "__main__"}
    parts |= {path.parent.name for path in package.glob("*/__init__.py")}
    hit = {Path(mutant["file"]).parts[1].removesuffix(".py") for mutant in MUTANTS}
    assert hit == parts


def test_the_table_is_of_these_mutants_and_all_are_killed():
    tried = [(row["id"], row["mutant"]) for row in RESULTS]
    assert tried == [(mutant["id"], run.digest(mutant)) for mutant in MUTANTS]
    assert [row["id"] for row in RESULTS if row["verdict"] != "killed"] == []
    for row, mutant in zip(RESULTS, MUTANTS, strict=True):
        assert row["by"].partition("::")[0] in [test.partition("::")[0] for test in mutant["tests"]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"old": "a + c"}, "`old` is 0 times"),
        ({"old": "a"}, "`old` is 3 times"),
        ({"new": "a + b  # a bug"}, "the program is the same"),
        ({"new": "a +"}, "invalid syntax"),
    ],
)
def test_what_is_no_mutant_is_refused(change, message):
    text = "def add(a, b):\n    return a + b\n"
    mutant = {"id": "x", "file": "x.py", "old": "a + b", "new": "a - b"} | change
    with pytest.raises((ValueError, SyntaxError), match=message):
        run.mutated(text, mutant)


@pytest.mark.parametrize(
    ("code", "output", "verdict", "by"),
    [
        (0, "2 passed", "survived", ""),
        (1, "F\nFAILED test_add.py::test_two[a b] - assert", "killed", "test_add.py::test_two"),
        (None, "", "killed", "the time limit"),
        (4, "ERROR: not found: test_add.py", "broken", ""),
    ],
)
def test_what_survives_is_told(code, output, verdict, by, tmp_path, monkeypatch):
    (tmp_path / "add.py").write_text("return a + b")

    def tests(folder, names):
        assert (folder / "add.py").read_text() == "return a - b" and names == ["test_add.py"]
        return code, output

    monkeypatch.setattr(run, "run_tests", tests)
    monkeypatch.setattr(run, "mutated", lambda text, mutant: text.replace("+", "-"))
    mutant = {"id": "x", "file": "add.py", "old": "+", "new": "-", "what": "a sign"}
    row = run.judge(tmp_path, mutant | {"tests": ["test_add.py"]})
    assert (row["verdict"], row["by"]) == (verdict, by)
    assert (tmp_path / "add.py").read_text() == "return a + b"
    run.write_results([row], ["x"], tmp_path / "results.csv")
    assert run.read_results(tmp_path / "results.csv") == [row]
