"""Every row of the source notes stands in `source_notes.md`, and every target there exists."""

import json
import re
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
# The full list: C0.1 to C0.9, T0.1 to T0.15, ..., and one row that was put between two.
LAST = {"C0": 9, "T0": 15, "C1": 9, "T1": 14, "C2": 8, "T2": 17, "C3": 5, "T3": 12}
ALL = {f"{kind}.{n}" for kind, last in LAST.items() for n in range(1, last + 1)} | {"T3.3b"}
ROWS = re.findall(
    r"^\| ([CT]\d\.\d+b?) \| (.+?) \| (.+?) \|$", (HERE / "source_notes.md").read_text(), re.M
)


def test_every_target_exists():
    ledger = tomllib.loads((HERE.parent / "data" / "ledger.toml").read_text())["row"]
    for row, _, targets in ROWS:
        found = re.findall(r"`([^`:]+)::([^`]+)`", targets)
        assert found, f"{row}: no target"
        for file, name in found:
            if file == "ledger.toml":
                assert name in {each["id"] for each in ledger}, f"{row}: {file}::{name}"
            elif file.endswith(".ipynb"):
                notebook = json.loads((HERE.parent / "notebooks" / file).read_text())
                assert name in {cell["id"] for cell in notebook["cells"]}, f"{row}: {file}::{name}"
            else:
                assert f"def {name}(" in (HERE / file).read_text(), f"{row}: {file}::{name}"


def test_every_row_stands_there_once():
    names = [row for row, _, _ in ROWS]
    assert len(names) == len(set(names))
    assert set(names) == ALL, f"missing {ALL - set(names)}, unknown {set(names) - ALL}"


def test_no_chapter_speaks_of_rows():
    paths = [*(HERE.parent / "notebooks").glob("*.ipynb")]
    assert len(paths) > 12
    for path in paths:
        prose = "".join("".join(c["source"]) for c in json.loads(path.read_text())["cells"])
        assert not re.search(r"\b[CT][0-3]\.\d+\b", prose), path.name
