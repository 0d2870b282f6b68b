"""What a reader who does not see colours, or does not see, gets: words, contrast, marks.

Contrast is WCAG 2.1's: 4.5 for words, 3 for lines and marks. Keys and both themes of JupyterLab are
tested in a browser (tests/test_browser.py).
"""

import ast
import json
import re

import matplotlib
import notebook_env
import notebook_guard as guard
import pytest
import torch
from bs4 import BeautifulSoup

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.text import Text

from mylib import page as pages
from mylib import plots
from mylib.masks import causal, causal_head, dense
from mylib.plots.palette import contrast
from mylib.widgets import chapter11
from mylib.widgets.panel import picture

WORDS = ["Every", "effort", "moves", "you", "forward"]
LIGHT, DARK = "white", "#111111"  # the paper of JupyterLab's two themes, and of the book's
NAMES = ("BLACK", "ORANGE", "GREEN", "BLUE", "VERMILION", "PINK", "GREY")
COLOURS = (*NAMES, "SKY", "YELLOW")
TELLING = {"text", "annotate", "set_title", "set_xlabel", "set_ylabel", "suptitle", "legend"}


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


# -- figures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_colour_of_a_line_stands_out_on_white(name):
    assert contrast(getattr(plots, name)) >= 3
    assert contrast(plots.ink(getattr(plots, name))) >= 4.5


def test_lines_that_a_figure_shows_together_stand_out_and_differ():
    assert min(map(contrast, plots.LINES)) >= 3
    assert len(set(plots.LINES)) == len(plots.LINES) == len(set(plots.MARKS))


def figures():
    """Each function of `mylib.plots`, with what is hardest to read in it: name, figure."""
    seen, prices = dense(causal, 5)[0, 0], torch.linspace(0.1, 2, 5)
    curves = {name: ([1, 2], [3.0, 2.0 - n / 9]) for n, name in enumerate("abcde")}
    card = {"name": "x", "mask": causal, "lines": ["next word"]}
    yield "matrix", plots.matrix(torch.linspace(-1, 1, 64).view(8, 8))
    yield "mask_picture", plots.mask_picture(causal, 5, WORDS)
    yield "influence_picture", plots.influence_picture(seen, ~seen, WORDS)
    yield "influence_row", plots.influence_row({"a": seen, "b": seen}, {"a": ~seen})
    yield "surprise_strip", plots.surprise_strip(WORDS, prices, prices.where(prices < 2, torch.inf))
    yield "loss_on_floor", plots.loss_on_floor(curves, {"floor": 0.9, "other floor": 0.7})
    yield "next_word_bars", plots.next_word_bars(WORDS, prices / 9, prices / 8)
    yield "hole_bars", plots.hole_bars({"hole": (WORDS, prices / 9, prices / 8)})
    yield "leak_trellis", plots.leak_trellis(WORDS, seen, 2, [3, 4, 4], "moves")
    yield "regime_row", plots.regime_row([card, card])
    yield "poster", plots.poster([card, card | {"mine": True}])
    says = {"shown": "words", "says": "the next", "length": "the model"}
    yield "regime_card", plots.regime_card("reporter", mask=causal_head(3), **says)


def pale(figure):
    """Words of a figure without contrast on what lies behind them: a cell, a box, or paper."""
    figure.canvas.draw()
    for word in figure.findobj(Text):
        if not word.get_text().strip() or not word.get_visible():
            continue
        below = figure.get_facecolor()
        if word.axes is not None and word.axes.images and word in word.axes.texts:
            image, (x, y) = word.axes.images[0], word.get_position()
            high, wide = image.get_array().shape[:2]
            if word.get_transform() == word.axes.transData and 0 <= y < high and 0 <= x < wide:
                below = image.to_rgba(image.get_array()[round(y), round(x)])
        if contrast(word.get_color(), below[:3]) < 4.5:
            yield f"{word.get_text()!r}: {word.get_color()} on {below}"


def test_words_of_figures_can_be_read():
    drawn = dict(figures())
    assert {name: found for name in drawn if (found := [*pale(drawn[name])])} == {}
    rest = {name for name in plots.__all__ if name.islower()} - drawn.keys()
    assert rest <= {"audit_picture", "ink"}  # the first is a `matrix`, the second no figure


def test_pale_words_of_a_figure_are_noticed():
    plt.imshow([[0.0, 1.0]], cmap="cividis")
    plt.text(0, 0, "dark on dark", color="black")
    plt.text(1, 0, "light on light", color="white")
    plt.text(1, 0, "sound", color="black")
    plt.title("grey", color="#999999")
    found = [line.split(":")[0] for line in pale(plt.gcf())]
    assert found == ["'dark on dark'", "'light on light'", "'grey'"]


def test_curves_have_their_names_beside_them_and_bars_an_outline():
    curves = {
        name: ([1, 2, 3], [3.0, 2.0, n / 9]) for n, name in enumerate(["one", "two", "three"])
    }
    (axes,) = plots.loss_on_floor(curves, {"floor": 0.8}).axes
    beside = {text.get_text(): text.xy for text in axes.texts if text.get_text() in curves}
    assert beside == {name: (steps[-1], loss[-1]) for name, (steps, loss) in curves.items()}
    assert [line.get_linestyle() for line in axes.lines].count("--") == 1  # the floor is no curve
    (axes,) = plots.surprise_strip(WORDS, torch.ones(5), torch.ones(5)).axes
    model, oracle = axes.containers
    assert all(bar.get_fill() for bar in model) and not any(bar.get_fill() for bar in oracle)
    seen = dense(causal, 4)[0, 0]
    wrong = plots.influence_picture(seen, ~seen).axes[0].patches
    assert wrong and all(patch.get_hatch() for patch in wrong)


# -- code -----------------------------------------------------------------------------------------


def pale_words(code):
    """Calls that write in a colour of the palette which is too light for words."""
    for call in ast.walk(ast.parse(code)):
        if not isinstance(call, ast.Call) or getattr(call.func, "attr", "") not in TELLING:
            continue
        for key in call.keywords:
            name = ast.unparse(key.value).removeprefix("plots.")
            if key.arg == "color" and name in COLOURS and contrast(getattr(plots, name)) < 4.5:
                yield f"line {call.lineno}: {call.func.attr}(color={name}): use ink({name})"


def test_mylib_writes_in_ink():
    for path in sorted((notebook_env.ROOT / "mylib").rglob("*.py")):
        assert [*pale_words(path.read_text(encoding="utf-8"))] == [], path.name


@pytest.mark.parametrize("path", notebook_env.notebooks(), ids=lambda path: path.stem)
def test_a_chapter_writes_in_ink(path):
    for cell in guard.code_cells(json.loads(path.read_text(encoding="utf-8"))):
        assert [*pale_words(guard.plain(guard.source(cell)))] == [], cell["id"]


def test_pale_words_in_code_are_noticed():
    code = "ax.text(0, 0, 'x', color=plots.ORANGE)\nax.plot([1], color=ORANGE)\n"
    code += "ax.text(0, 0, 'x', color=plots.ink(ORANGE))\nax.annotate('x', 1, color=BLUE)"
    assert [*pale_words(code)] == ["line 1: text(color=ORANGE): use ink(ORANGE)"]


# -- HTML -----------------------------------------------------------------------------------------


def test_marks_of_a_page_stand_out_in_both_themes_and_take_its_ink():
    styles = [style for style, _ in pages.MARKS.values()]
    for style in [*styles, pages.PAGE, chapter11.RIGHT, chapter11.WRONG]:
        assert not re.search(r"(^|;)\s*(color|background)", style)
        for colour in re.findall(r"#\w{6}", style):
            assert min(contrast(colour, LIGHT), contrast(colour, DARK)) >= 3
    shapes = [re.sub(r"#\w{6}", "", style) for style in styles]
    assert len(set(shapes)) == len(shapes)  # told apart without the colour


def unread(html):
    """What a screen reader cannot tell, and what a theme may hide, in the HTML of an output."""
    soup = BeautifulSoup(html, "html.parser")
    for image in soup.find_all("img"):
        if not image.get("alt", "").strip():
            yield "an image without alt text"
    for drawing in soup.find_all("svg"):
        if not (drawing.get("aria-label") or drawing.find("title") or drawing.get("aria-hidden")):
            yield "an SVG without title"
    for head in soup.find_all("th"):
        if head.get("scope") not in ("col", "row", "colgroup", "rowgroup"):
            yield f"a head of a table without scope: {head.text.strip()[:30]!r}"
    for table in soup.find_all("table"):
        if not table.find("th"):
            yield "a table without heads"
    for tag in soup.find_all(style=True):
        keys = {part.partition(":")[0].strip() for part in tag["style"].split(";")}
        if ("color" in keys) != bool(keys & {"background", "background-color"}):
            yield f"a colour without its background, or the reverse: {tag['style']!r}"


@pytest.mark.parametrize("path", notebook_env.notebooks(), ids=lambda path: path.stem)
def test_outputs_can_be_read(path):
    problems = []
    for cell in guard.code_cells(json.loads(path.read_text(encoding="utf-8"))):
        data = [output.get("data", {}) for output in cell["outputs"]]
        alt = cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")
        if any("image/png" in each for each in data) and not alt.strip():
            problems.append(f"{cell['id']}: a figure without alt text (make notebooks stores it)")
        for each in data:
            problems += [
                f"{cell['id']}: {p}" for p in unread(guard.joined(each.get("text/html", "")))
            ]
            if "image/svg+xml" in each:
                problems += [
                    f"{cell['id']}: {p}" for p in unread(guard.joined(each["image/svg+xml"]))
                ]
    assert problems == []


def test_what_cannot_be_read_is_noticed():
    sound = (
        "<svg role='img'><title>x</title></svg><table><tr><th scope='col'>a</th></tr></table>"
        "<p style='color:black;background:white'>x</p>"
    )
    assert [*unread(sound)] == []
    broken = "<img src='x'><svg></svg><table><tr><td>1</td></tr></table><table><th>a</th></table>"
    broken += "<p style='color:black'>x</p><p style='background:white'>x</p>"
    assert len([*unread(broken)]) == 6


def test_the_picture_of_a_widget_has_words():
    assert [*unread(picture(plt.figure(figsize=(1, 1)), "a <line>"))] == []
