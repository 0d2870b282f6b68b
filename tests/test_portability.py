"""The two tools that ask whether the course is the same elsewhere: another setting, no network."""

import csv
import re
import subprocess
import sys

import notebook_env
import portability
import pytest

OFFLINE = ["sh", str(notebook_env.ROOT / "tests" / "tools" / "offline_run.sh")]
SETTING = {
    "what": "a",
    "capability": "avx2",
    "threads": 2,
    "python": "3.11.7",
    **dict.fromkeys(portability.VERSIONS, "1.0"),
}
FOUND = {"passed": 3, "failed": 0, "skipped": 0, "which": "", "seconds": 4, "date": "2000-01-01"}


def test_what_pytest_says_is_read():
    found = portability.outcome("..\n12 passed, 3 skipped, 2 warnings in 62.05s (0:01:02)\n")
    assert found == {"passed": 12, "failed": 0, "skipped": 3, "which": ""}
    text = "FAILED notebooks/01.ipynb::Cell 3\nERROR a.py - no\n1 failed, 2 errors in 0.10s"
    found = portability.outcome(text)
    assert found["failed"] == 3 and found["which"] == "notebooks/01.ipynb::Cell 3 a.py"
    assert portability.outcome("no tests ran in 0.01s")["passed"] == 0
    with pytest.raises(ValueError, match=r"did not come to its end: (?s:.*)Segmentation"):
        portability.outcome("...\nSegmentation fault")


def test_a_run_takes_the_place_of_an_earlier_one(tmp_path):
    table = tmp_path / "table.csv"
    portability.keep(SETTING | FOUND, table)
    portability.keep(SETTING | FOUND | {"threads": 1}, table)
    portability.keep(SETTING | FOUND | {"failed": 1, "which": "x"}, table)
    rows = list(csv.DictReader(table.open()))
    assert [(row["threads"], row["failed"]) for row in rows] == [("1", "0"), ("2", "1")]


def test_a_run_sees_its_setting(tmp_path):
    """The capability, the threads and this checkout, in tests of which one asks for more."""
    folder = notebook_env.ROOT / "build"
    folder.mkdir(exist_ok=True)
    file = folder / "test_setting.py"
    file.write_text(
        "import importlib.util, os, pathlib\n"
        "def test_it():\n"
        "    assert os.environ['ATEN_CPU_CAPABILITY'] == 'default'\n"
        "    assert os.environ['OMP_NUM_THREADS'] == '2'\n"
        "    found = importlib.util.find_spec('mylib').origin\n"
        f"    assert pathlib.Path(found).is_relative_to({str(notebook_env.ROOT)!r})\n"
        "def test_more():\n"
        "    assert os.environ['OMP_NUM_THREADS'] == '4'\n"
    )
    table = tmp_path / "table.csv"
    try:
        setting = ["--capability", "default", "--threads", "2", "--what", "one"]
        assert portability.main([*setting, "--table", str(table), str(file)]) == 1
    finally:
        file.unlink()
    (row,) = csv.DictReader(table.open())
    assert [row[name] for name in ("what", "capability", "threads")] == ["one", "default", "2"]
    assert (row["passed"], row["failed"]) == ("1", "1")
    assert row["which"] == "build/test_setting.py::test_more"


def test_the_committed_table_says_what_was_run_and_nothing_in_it_is_open():
    """What failed under a setting was mended, and its file has a line of its own that passes."""
    rows = list(csv.DictReader(portability.TABLE.open()))
    assert rows and set(rows[0]) == set(portability.COLUMNS)
    passed = {(setting(row), name) for row in rows if row["failed"] == "0" for name in names(row)}
    for row in rows:
        assert int(row["passed"]) > 0
        assert bool(row["which"]) == (int(row["failed"]) > 0)
        for file in re.findall(r"(\S+)::", row["which"]):
            name = file.removeprefix("tests/").removesuffix(".py")
            assert (setting(row), name) in passed, file
    settings = {setting(row)[:2] for row in rows}
    assert {("default", "1"), ("avx2", "1"), ("best", "2"), ("best", "4")} <= settings
    assert {row["python"][:4] for row in rows} >= {"3.11", "3.13"}


def setting(row):
    return tuple(row[name] for name in portability.SETTING[1:])


def names(row):
    return row["what"].split()


def offline(*command, **env):
    run = subprocess.run([*OFFLINE, *command], capture_output=True, text=True, env=env or None)
    if run.returncode == 77:
        pytest.skip(run.stderr.strip())
    return run


def test_nothing_but_loopback():
    """The script says so, and the code of what it ran is its own."""
    code = "import socket; print([n for _, n in socket.if_nameindex()]); raise SystemExit(5)"
    run = offline(sys.executable, "-S", "-c", code)
    assert run.returncode == 5, run.stderr
    said, names = run.stdout.splitlines()
    assert "Loopback alone" in said and "'lo'" in names and "eth" not in names


def test_what_is_not_proved_is_not_run():
    run = offline("echo", "ran", PATH="/usr/bin:/bin:/usr/sbin", PYTHON="false")
    assert run.returncode == 1 and "ran" not in run.stdout
    assert subprocess.run(OFFLINE, capture_output=True).returncode == 2
