"""Move each control of each `mylib.widgets.panel.Panel` in a page, by keyboard and by mouse.

The picture must become another one each time. A new kind of control needs a function and a line
in `KINDS`.
"""

import itertools
import time

import notebook_guard as guard
from playwright.sync_api import Error as BrowserError

PANEL = ": run the cell to move "  # Panel.__repr__
TRIES = 3  # steps of a control: a single one may change nothing, a temperature under top-1 say

# The cells are done, so stderr and errors are those of a drawing function.
LISTEN = """w => {
  window.heard = [];
  w.sessionContext.session.kernel.iopubMessage.connect((_, {header, content}) => {
    if (header.msg_type === 'error') window.heard.push(`${content.ename}: ${content.evalue}`);
    if (content.name === 'stderr') window.heard.push(`stderr: ${content.text.trim()}`);
  });
}"""
SHOW = """(w, id) => {
  const cell = w.content.widgets.find(cell => cell.model.id === id);
  cell.outputHidden = false;
  cell.node.dataset.cell = id;
  return w.content.scrollToCell(cell);
}"""
PICTURE = "e => e.innerHTML"  # a `Panel` shows HTML, an image with its bytes in it
FLAWS = """e => {
  const {width, height} = (e.querySelector('.widget-html-content') ?? e).getBoundingClientRect();
  const images = [e, ...e.querySelectorAll('img')].filter(i => i.matches('img'));
  return [
    width && height ? '' : 'has no size',
    images.every(i => i.complete && i.naturalWidth) ? '' : 'is a broken image',
    images.every(i => i.alt) ? '' : 'has no alt text',
  ].filter(Boolean);
}"""
FOCUSED = "e => e.contains(document.activeElement)"


def move_all(page, w, cells, patience):
    """Yield each move (cell, panel, control, keyboard or mouse) and the list of its problems."""
    w.evaluate(LISTEN)
    for cell in cells:
        texts = [text for text in map(guard.output_text, cell["outputs"]) if PANEL in text]
        if texts:
            w.evaluate(SHOW, cell["id"])
        panels = page.locator(f"[data-cell='{cell['id']}'] .jp-OutputArea-output > .widget-vbox")
        for number, text in enumerate(texts):
            panel, _, names = text.strip().partition(PANEL)
            *controls, picture = panels.nth(number).locator("> *").all() or [None]
            named = names.split(", ")
            if len(controls) != len(named):
                yield f"{cell['id']}: {panel}", [f"shows {len(controls)} controls, not {names}"]
                continue
            for control, how in itertools.product(range(len(named)), ("keyboard", "mouse")):
                problems = move(controls[control], picture, how == "keyboard", patience)
                problems += dict.fromkeys(page.evaluate("window.heard.splice(0)"))
                yield f"{cell['id']}: {panel}: {named[control]} by {how}", problems


def move(control, picture, keyboard, patience):
    """Up to three steps of one control, until the picture is another one; problems met."""
    part = {kind: control.locator(f"xpath=descendant-or-self::{kind}") for kind in KINDS}
    kind = next((kind for kind in KINDS if part[kind].count()), None)
    if kind is None:
        return ["tests/tools/moves.py does not know this kind of control"]
    before = look(picture)
    for _ in KINDS[kind](part[kind], keyboard):
        if another(picture, before, patience):
            lost = keyboard and not control.evaluate(FOCUSED)
            flaws = [f"the picture {flaw}" for flaw in picture.evaluate(FLAWS)]
            return flaws + ["JupyterLab takes the key too: the focus is lost"] * lost
    return ["the picture stays as it was"]


# Each function makes one step at every `next`.


def slide(handle, keyboard):
    low, high, now = (float(handle.get_attribute(f"aria-value{x}")) for x in ("min", "max", "now"))
    share = (now - low) / (high - low)
    track = handle.locator("xpath=ancestor::div[contains(@class, 'noUi-target')]")
    for place in sorted((0.1, 0.5, 0.9), key=lambda place: -abs(place - share)):
        if keyboard:
            handle.press("ArrowRight" if share < 0.5 else "ArrowLeft")
        else:
            track.click(position={"x": place * track.bounding_box()["width"], "y": 2})
        yield


def choose(select, keyboard):
    now, count, rows = select.evaluate("e => [e.selectedIndex, e.length, e.size]")
    later = now < count / 2
    for other in [index for index in range(count) if index != now][:TRIES]:
        # JupyterLab takes the arrow keys of a closed menu or of a list, to walk through the cells.
        if keyboard and rows > 1:
            select.press("End" if later else "Home")
        elif keyboard:
            for key in ("Space", "ArrowDown" if later else "ArrowUp", "Enter"):
                select.press(key)
        elif rows > 1:
            select.locator("option").nth(other).click()
        else:  # an open menu is the browser's, not the page's
            select.select_option(index=other)
        yield


def tick(box, keyboard):
    box.press("Space") if keyboard else box.click()
    yield


def write(line, keyboard):
    for keys in (("End", "Space", "a"), ("Control+a", "b"), ("Control+a", "Backspace")):
        line.focus() if keyboard else line.click()
        for key in (*keys, "Enter"):
            line.press(key)
        yield


def press(buttons, keyboard):
    others = [b for b in buttons.all() if "mod-active" not in b.get_attribute("class")]
    for button in itertools.islice(itertools.cycle(others or [buttons.first]), TRIES):
        button.press("Enter") if keyboard else button.click()
        yield


KINDS = {
    "div[@role='slider']": slide,
    "select": choose,
    "input[@type='checkbox']": tick,
    "input[@type='text']": write,
    "button": press,
}


def look(picture):
    try:
        return picture.evaluate(PICTURE)
    except BrowserError:
        return None  # between two pictures: the address is no longer valid


def another(picture, before, patience):
    """Wait until the picture is another one and stays so: a control may send several values."""
    start = since = time.monotonic()
    seen = before
    while time.monotonic() < start + 2 * patience:
        picture.page.wait_for_timeout(100)
        now = look(picture)
        if now != seen:
            seen, since = now, time.monotonic()
        quiet = time.monotonic() - since
        if seen == before and quiet > patience:
            return False
        if seen != before and quiet > 0.5 + since - start:  # a second drawing takes as long
            return True
    return seen != before
