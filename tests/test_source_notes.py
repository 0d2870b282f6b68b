"""Every target of `source_notes.md` exists, and every row is well formed."""

import json
import re
from pathlib import Path

HERE = Path(__file__).parent
ROWS = re.findall(
    r"^\| ([CT]\d\.\d+b?) \| (.+?) \| (.+?) \|$", (HERE / "source_notes.md").read_text(), re.M
)


def test_every_target_exists():
    assert len(ROWS) > 20
    for row, _, targets in ROWS:
        found = re.findall(r"`([^`:]+)::([^`]+)`", targets)
        assert found, f"{row}: no target"
        for file, name in found:
            if file.endswith(".ipynb"):
                notebook = json.loads((HERE.parent / "notebooks" / file).read_text())
                assert name in {cell["id"] for cell in notebook["cells"]}, f"{row}: {file}::{name}"
            else:
                assert f"def {name}(" in (HERE / file).read_text(), f"{row}: {file}::{name}"


def test_no_row_stands_twice():
    names = [row for row, _, _ in ROWS]
    assert len(names) == len(set(names))


def test_no_chapter_speaks_of_rows():
    for path in (HERE.parent / "notebooks").glob("*.ipynb"):
        prose = "".join("".join(c["source"]) for c in json.loads(path.read_text())["cells"])
        assert not re.search(r"\b[CT][0-3]\.\d+\b", prose), path.name
