"""Each chapter in JupyterLab in a real browser: it runs, each control changes its picture, and its
outputs can be read in the light and in the dark theme.

`make test-browser` runs these; `make test` leaves them out, as they run every chapter once more.
"""

import re
import time

import nbformat
import notebook_env
import pytest

pytestmark = pytest.mark.browser
PICTURES = notebook_env.ROOT / "build" / "browser"
KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    pytest.importorskip("playwright", reason="playwright is not installed (make setup)")
    import lab

    if not lab.find_browser():
        pytest.skip("no Chromium: apt-get install chromium, or name one: CHROMIUM=/path/to/it")
    with lab.start(tmp_path_factory.mktemp("lab")) as running:
        yield running


@pytest.mark.parametrize("path", notebook_env.notebooks(), ids=lambda path: path.stem)
def test_chapter(lab, path, capsys):
    start = time.monotonic()
    visit = lab.visit(path, PICTURES)
    with capsys.disabled():
        print(f"\n{path.name}: {time.monotonic() - start:.0f} s, {len(visit.moves)} moves", end=" ")
    assert not visit.problems, said(visit)


def said(visit):
    return "\n".join([*visit.problems, "", f"Screenshots: {PICTURES}", "Server:", visit.log])


@pytest.fixture
def written(tmp_path):
    """Write a notebook from the code of its cells, by name; those in `checks` may raise."""

    def write(cells, checks):
        notebook = nbformat.v4.new_notebook(metadata=KERNEL)
        for name, code in cells.items():
            tags = {"tags": ["raises-exception"]} if name in checks else {}
            notebook.cells.append(nbformat.v4.new_code_cell(code, id=name, metadata=tags))
        nbformat.write(notebook, tmp_path / "written.ipynb")
        return tmp_path / "written.ipynb"

    return write


IMPORTS = """
import ipywidgets as w, matplotlib.pyplot as plt, os, socket, sys
from IPython.display import HTML
from mylib.exercises import NotSolved
from mylib.widgets.panel import Panel, picture
"""
SOUND = {
    "imports": IMPORTS,
    "offline": """
assert os.listdir(os.environ["MYLIB_CACHE"]) == []
try:
    socket.create_connection(("192.0.2.1", 80), timeout=5)
except OSError as error:
    assert "without a network" in str(error)
else:
    assert False""",
    "check": "raise NotSolved('one line')",
    "kinds": """
Panel(
    {
        "whole": w.IntSlider(10, max=10),
        "real": w.FloatSlider(0.0, max=2.0),
        "menu": w.Dropdown(options=["a", "b", "c"]),
        "several": w.SelectMultiple(options=["p", "q", "r"], value=("p",)),
        "one": w.ToggleButtons(options=["x", "y"]),
        "on": w.ToggleButton(),
        "tick": w.Checkbox(),
        "words": w.Text("Every"),
    },
    lambda state: f"<p>{state}</p>",
)""",
    "image": """
def draw(state):
    plt.figure(figsize=(2, 1))
    plt.plot([0, state["n"] // 2])  # the first step changes nothing
    return picture(plt.gcf(), "a line")

Panel({"n": w.IntSlider(2, max=9)}, draw)""",
}


def test_every_kind_of_control_is_moved(lab, written):
    visit = lab.visit(written(SOUND, checks=["check"]), patience=5)
    assert not visit.problems, said(visit)
    assert len(visit.moves) == 2 * (8 + 1)


BROKEN = {
    "imports": IMPORTS,
    "deaf": """
Panel({"live": w.IntSlider(3, max=9), "deaf": w.Dropdown(options=["a", "b"])},
      lambda state: f"<p>{state['live']}</p>")""",
    "crash": """
def draw(state):
    if state["n"] != 3:
        print("a warning", file=sys.stderr)
        1 / 0
    return "<p>3</p>"

Panel({"n": w.IntSlider(3, max=9)}, draw)""",
    "no-alt": """
svg = "<img src='data:image/svg+xml,<svg xmlns=%22http://www.w3.org/2000/svg%22 width=%22{n}%22/>'>"
Panel({"n": w.IntSlider(3, min=1, max=9)}, lambda state: svg.format(**state))""",
    "unknown": 'Panel({"n": w.IntText(3)}, str)',
    "bare": "w.IntSlider(3)",
    "warns": "print('careful', file=sys.stderr)",
    "long-check": "1 / 0",
    "web": """HTML("<img src='http://example.org/x.png' alt='x'>")""",
    "ink": """HTML("<p style='color:#333'>dark ink</p>")""",
    "paper": """HTML("<p style='background:white'>white paper</p>")""",
    "grey": """HTML("<p>sound <span style='color:#aaa;background:#fff'>pale grey</span></p>")""",
    "raises": "raise ValueError('no')",
    "after": "1",
}
FOUND = """
console: Failed to load resource: net::ERR_NAME_NOT_RESOLVED http://example.org/x.png
bare: a widget that is no Panel: IntSlider(value=3)
warns: stderr: careful
long-check: a check should say one line and show no traceback
ink: hard to read in dark: dark ink
paper: hard to read in dark: white paper
grey: hard to read in light: pale grey
grey: hard to read in dark: pale grey
raises: error: ValueError: no
after: not run
deaf: Panel: deaf by HOW: the picture stays as it was
crash: Panel: n by HOW: the picture stays as it was
crash: Panel: n by HOW: stderr: a warning
crash: Panel: n by HOW: ZeroDivisionError: division by zero
no-alt: Panel: n by HOW: the picture has no alt text
unknown: Panel: n by HOW: tests/tools/moves.py does not know this kind of control
""".strip()


def test_what_is_broken_is_noticed(lab, written):
    visit = lab.visit(written(BROKEN, checks=["long-check"]), patience=2)
    found = {FOUND.replace("HOW", how) for how in ("keyboard", "mouse")}
    problems = {re.sub(r" \([\d ]+ on [\d ]+\)$", "", problem) for problem in visit.problems}
    assert problems == {line for text in found for line in text.splitlines()}, said(visit)
