"""Every chapter keeps the rules of notebooks (tools/notebook_guard.py); its links lead somewhere.

No kernel is started here; nbval runs the cells themselves, because pyproject.toml names notebooks/
among the test paths."""

import json
import re

import notebook_env
import notebook_guard
import pytest
from notebook_cells import prose

NOTEBOOKS = notebook_env.notebooks()
by_name = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


@by_name
def test_chapter_keeps_the_rules(path):
    found = notebook_guard.problems(path.read_text(encoding="utf-8"))
    assert not found, f"{path.name} breaks the rules:\n  " + "\n  ".join(found)


def anchors(notebook):
    """The headings, as JupyterLab links to them."""
    titles = re.findall(r"^#+ +(.+?)\s*$", prose(notebook), re.M)
    return {re.sub(r"[*`]", "", title).replace(" ", "-") for title in titles}


@by_name
def test_links_lead_somewhere(path):
    text = prose(read(path))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://|mailto:", target):
            continue
        file, _, anchor = target.partition("#")
        there = path.parent / file if file else path
        assert there.exists(), f"{path.name}: {target}"
        if anchor:
            assert anchor in anchors(read(there)), f"{path.name}: {target}"


def test_the_chapters_are_linked_in_a_row():
    """Each chapter names the next one at its end; a side road names the way back."""
    numbers = [path.name[:2] for path in NOTEBOOKS]
    for path, after in zip(NOTEBOOKS, numbers[1:], strict=False):
        closing = prose(read(path)).rpartition("**Next.**")[2].split("\n\n")[0]
        wanted = (
            rf"[Cc]hapter {after}\b"
            if path.name[0] != "A" and after[0] != "A"
            else r"\bchapter|side road"
        )
        assert re.search(wanted, closing), f"{path.name}: {closing}"
