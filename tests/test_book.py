"""The built book: complete, folded, readable without a network and without eyes.

`make book` builds it into build/book and then runs the tests that are marked `book`; without a
built book they are skipped. That each check notices what it is for is tested everywhere.
"""

import ast
import functools
import json
import re
import runpy
from pathlib import Path
from urllib.parse import unquote, urlsplit

import notebook_env
import notebook_guard as guard
import pytest
from bs4 import BeautifulSoup

ROOT = notebook_env.ROOT
SITE = ROOT / "build" / "book"
LOADING = {"stylesheet", "icon", "preload", "modulepreload", "preconnect", "dns-prefetch"}
FOLDS = {"hide-input": "above-input", "hide-output": "below-input"}  # tag: class of myst-nb's fold


@functools.cache
def soup(page):
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


def pages(site):
    return sorted(page for page in site.rglob("*.html") if "_static" not in page.parts)


def external(site):
    """What a page loads from elsewhere. (A link that a reader may click is no such thing.)"""
    for page in pages(site):
        for tag in soup(page).find_all(["script", "img", "iframe", "source", "video", "link"]):
            address = tag.get("src") or tag.get("href") or ""
            loads = tag.name != "link" or LOADING & set(tag.get("rel", []))
            if loads and re.match(r"(https?:)?//", address):
                yield f"{page.name}: <{tag.name}> loads {address}"
        for script in soup(page).find_all(["script", "style"], src=False):
            for address in re.findall(
                r"""(?:import|url\(|src=)\s*["']?(https?://[^"')\s]+)""", script.text
            ):
                yield f"{page.name}: <{script.name}> loads {address}"
    for sheet in site.rglob("*.css"):
        text = re.sub(r"/\*.*?\*/", "", sheet.read_text(encoding="utf-8"), flags=re.S)
        for address in re.findall(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')\s]+)""", text):
            yield f"{sheet.name}: loads {address}"


def dead_links(site):
    for page in pages(site):
        for link in soup(page).find_all("a", href=True):
            parts = urlsplit(link["href"])
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if not target.is_file():
                yield f"{page.name}: no {link['href']}"
            elif parts.fragment and unquote(parts.fragment) not in anchors(target):
                yield f"{page.name}: no {link['href']}: the page has no such place"


@functools.cache
def anchors(page):
    found = {tag["id"] for tag in soup(page).find_all(id=True)}
    return found | {tag["name"] for tag in soup(page).find_all("a", attrs={"name": True})}


def unseen(site):
    """Pictures without words, tables whose heads are not told from their cells, pages without a
    language."""
    for page in pages(site):
        if not soup(page).html.get("lang"):
            yield f"{page.name}: no language"
        for image in soup(page).find_all("img"):
            if not image.get("alt", "").strip() or re.fullmatch(r"\S+\.png", image["alt"]):
                yield f"{page.name}: no alt text: {str(image)[:80]}"
        for drawing in soup(page).find_all("svg"):
            if not (drawing.get("aria-hidden") or drawing.get("aria-label") or drawing.title):
                yield f"{page.name}: an SVG without a title: {str(drawing)[:80]}"
        for table in soup(page).select("article table"):
            if table.find("td") and not table.find("th"):
                yield f"{page.name}: a table without a head: {table.text.strip()[:40]!r}"


def unfolded(site, notebooks):
    """Solutions and answers of predict steps that lie open."""
    for path in notebooks:
        page = site / "notebooks" / f"{path.stem}.html"
        if not page.is_file():
            yield f"{path.stem}: no page"
            continue
        cells = guard.code_cells(json.loads(path.read_text(encoding="utf-8")))
        for tag, fold in FOLDS.items():
            wanted = sum(tag in guard.tags(cell) for cell in cells)
            shown = soup(page).select(f"div.cell.tag_{tag}")
            folded = [c for c in shown if c.select(f"details.{fold}:not([open])")]
            if not wanted == len(shown) == len(folded):
                yield f"{path.stem}: {wanted} cells with {tag}, {len(folded)} folded"


def unlisted(site, names):
    """Public names without a place in the reference."""
    for module, name in names:
        top = module.split(".")[1]
        page = site / "api" / f"{top}.html"
        if not page.is_file() or f"{module}.{name}" not in anchors(page):
            yield f"{module}.{name}: not in the reference"


def public():
    """(module, name) of all that stands in an `__all__` of mylib."""
    for path in sorted((ROOT / "mylib").rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                parts = path.relative_to(ROOT).with_suffix("").parts
                module = ".".join(part for part in parts if part != "__init__")
                yield from ((module, name) for name in ast.literal_eval(node.value))


def unsearchable(site, notebooks):
    index = site / "searchindex.js"
    found = index.read_text(encoding="utf-8") if index.is_file() else ""
    if not (site / "search.html").is_file():
        yield "no page for searching"
    yield from (
        f"{p.stem}: not in the index" for p in notebooks if f"notebooks/{p.stem}" not in found
    )


CHECKS = {
    "external": external,
    "dead links": dead_links,
    "unseen": unseen,
    "unfolded": lambda site: unfolded(site, notebook_env.notebooks()),
    "unlisted": lambda site: unlisted(site, public()),
    "unsearchable": lambda site: unsearchable(site, notebook_env.notebooks()),
}


@pytest.mark.book
@pytest.mark.parametrize("name", CHECKS)
def test_the_book(name):
    if not (SITE / "index.html").is_file():
        pytest.skip("there is no built book (make book)")
    assert [*CHECKS[name](SITE)] == []


@pytest.mark.book
def test_the_chapters_stand_in_order():
    if not (SITE / "index.html").is_file():
        pytest.skip("there is no built book (make book)")
    links = [
        Path(urlsplit(a["href"]).path).stem for a in soup(SITE / "index.html").select("nav a[href]")
    ]
    chapters = [path.stem for path in notebook_env.notebooks()]
    assert [name for name in dict.fromkeys(links) if name in chapters] == chapters


def test_a_notebook_as_it_is_printed():
    pytest.importorskip("sphinx", reason="sphinx is not installed (make book)")
    build = runpy.run_path(str(ROOT / "book" / "build.py"))
    data = [
        {"text/plain": ["  0%|          | 0/130 [00:00<?, ?it/s]"]},
        {"text/plain": ["Dial: run the cell to move dial, reader"]},
        {"text/plain": ["x"], "text/html": ['<a href="02-leakage.ipynb#The-floor,-again">x</a>']},
        {"text/plain": ["42"]},
    ]
    outputs = [{"output_type": "display_data", "data": each} for each in data]
    title = {"cell_type": "markdown", "metadata": {}}
    title["source"] = ["# Leakage\n", "# no [x](01-a.ipynb#The-floor,-again) [y](01-a.ipynb)"]
    code = {"cell_type": "code", "metadata": {"tags": ["hide-output"]}, "outputs": outputs}
    first, second = json.loads(build["printed"]({"cells": [title, code]}, "02"))["cells"]
    links = "[x](01-a.ipynb#the-floor-again) [y](01-a.ipynb)"
    assert first["source"] == f"# 02 · Leakage\n# no {links}"
    assert second["metadata"]["mystnb"]["code_prompt_show"] == "Show the answer"
    widget, link, number = (output["data"] for output in second["outputs"])
    assert "<code>Dial</code>" in widget["text/html"] and "dial, reader" in widget["text/html"]
    assert 'href="02-leakage.html#the-floor-again"' in link["text/html"]
    assert number == {"text/plain": ["42"]}


# -- that the checks notice what they are for ------------------------------------------------------

SOUND = """<html lang="en"><script src="_static/a.js"></script><a href="other.html#here">x</a>
<a href="https://example.org">out</a><p id="mylib.masks.causal"></p><article>
<img src="x.png" alt="a line"><svg aria-hidden="true"></svg>
<table><tr><th>a</th></tr><tr><td>1</td></tr></table></article></html>"""
BROKEN = {
    "external": (
        '<script src="https://cdn.example/a.js"></script><link rel="stylesheet" href="//x/a.css">'
        "<style>@import url(https://x.example/b.css)</style>",
        3,
    ),
    "dead_links": (
        '<a href="none.html">x</a><a href="other.html#gone">y</a><a href="#no">z</a>',
        3,
    ),
    "unseen": (
        '<img src="a.png" alt=""><img src="b.png" alt="../b.png"><svg><path/></svg>'
        "<article><table><tr><td>1</td></tr></table></article>",
        4,
    ),
}


@pytest.fixture
def site(tmp_path):
    def write(extra=""):
        (tmp_path / "page.html").write_text(SOUND + extra)
        (tmp_path / "other.html").write_text('<html lang="en"><p id="here"></p></html>')
        return tmp_path

    yield write
    soup.cache_clear()
    anchors.cache_clear()


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_noticed(site, name):
    check, (extra, count) = globals()[name], BROKEN[name]
    assert [*check(site())] == []
    soup.cache_clear()
    anchors.cache_clear()
    assert len([*check(site(extra))]) == count


def test_what_lies_open_or_is_missing_is_noticed(site, tmp_path):
    folder = site()
    cells = [{"cell_type": "code", "metadata": {"tags": [tag]}} for tag in FOLDS]
    (tmp_path / "00.ipynb").write_text(json.dumps({"cells": cells}))
    notebooks = [tmp_path / "00.ipynb"]
    assert [*unfolded(folder, notebooks)] == ["00: no page"]
    assert [*unsearchable(folder, notebooks)] == ["no page for searching", "00: not in the index"]
    assert [*unlisted(folder, [("mylib.masks", "causal")])] != []
    for name in ("notebooks", "api"):
        (folder / name).mkdir()
    (folder / "api" / "masks.html").write_text(SOUND)
    assert [*unlisted(folder, [("mylib.masks", "causal"), ("mylib.masks", "x")])] == [
        "mylib.masks.x: not in the reference"
    ]
    (folder / "notebooks" / "00.html").write_text(
        '<div class="cell tag_hide-input"><details class="hide above-input"></details></div>'
        '<div class="cell tag_hide-output"><details open class="hide below-input"></details></div>'
    )
    assert [*unfolded(folder, notebooks)] == ["00: 1 cells with hide-output, 0 folded"]
