"""Chapters as a reader has them: JupyterLab in a real browser, every widget moved (`moves.py`).

`Lab.visit(notebook)` runs one notebook in Chromium and says what went wrong, a line each.
"""

import json
import os
import shutil
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import moves
import notebook_guard as guard
import psutil
from playwright.sync_api import Browser, sync_playwright
from playwright.sync_api import Error as BrowserError

RUN_LIMIT = 240  # seconds for all cells of a notebook, on a slow machine
PATIENCE = 15  # seconds for a picture to become another one
PAGE = 8000  # pixels of height in one screenshot
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Nothing on another machine has a name here: a page that asks for it logs an error.
FLAGS = ("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--disable-dev-shm-usage")
FLAGS += ("--disable-background-networking", "--disable-component-update", "--no-first-run")
FOLDERS = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
FOLDERS += ("JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")
NO_NEWS = {"fetchNews": "false", "checkForUpdates": False}  # else a question lies over the page
PROGRESS = "%|"  # in the text form of tqdm's bar

# JavaScript; `w` is the notebook in JupyterLab. It is ready when its kernel has answered: the
# indicator says "idle" before there is one.
OPENED = """path => {
  const w = window.jupyterapp?.shell.currentWidget;
  if (w?.context?.path !== path) return false;
  window.opened ??= w.context.ready
    .then(() => w.sessionContext.ready)
    .then(() => w.sessionContext.session.kernel.info)
    .then(() => { window.answered = true; });
  return window.answered;
}"""
# Not awaited: the command returns early where a check raises. The model tells when all is done.
RUN = """w => {
  jupyterapp.shell.collapseLeft();
  jupyterapp.commands.execute('notebook:run-all-cells');
}"""
CELLS = "w => w.content.model.toJSON().cells"
IDLE = "w => w.sessionContext.session.kernel.status === 'idle'"
SHUT = "w => w.sessionContext.shutdown()"
THEME = "(w, name) => jupyterapp.commands.execute('apputils:change-theme', {theme: name})"
SCROLL = """(w, y) => {
  const outer = w.node.querySelector('.jp-WindowedPanel-outer');
  outer.scrollTop = y;
  return outer.scrollHeight;
}"""

# Text that is hard to read in the outputs in view: its colour on what lies behind it (WCAG 2.1,
# 1.4.3: a contrast of 4.5, of 3 for large text). A background image is left to the eye.
PALE = """w => {
  const parse = color => {
    const parts = (color.match(/[\\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
    return parts.map((part, i) => color.startsWith('color(') && i < 3 ? 255 * part : part);
  };
  const over = ([r, g, b, a = 1], below) => [r, g, b].map((c, i) => a * c + (1 - a) * below[i]);
  const light = rgb => {
    const [r, g, b] = rgb.map(c => c / 255)
      .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
  };
  const behind = e => {
    if (!e) return [255, 255, 255];
    const {backgroundColor, backgroundImage} = getComputedStyle(e);
    if (backgroundImage !== 'none') return null;
    const color = parse(backgroundColor), alpha = color[3] ?? 1;
    const below = alpha < 1 ? behind(e.parentElement) : color.slice(0, 3);
    return below && over(color, below);
  };
  const faint = e => e ? getComputedStyle(e).opacity * faint(e.parentElement) : 1;
  const found = new Set();
  for (const cell of w.content.widgets) {
    for (const output of cell.node.querySelectorAll('.jp-OutputArea-output')) {
      const texts = document.createTreeWalker(output, NodeFilter.SHOW_TEXT);
      while (texts.nextNode()) {
        const text = texts.currentNode.data.trim(), e = texts.currentNode.parentElement;
        const below = behind(e);
        if (!text || !below || !e.checkVisibility({visibilityProperty: true})) continue;
        // IPython's colours of a traceback are not ours.
        if (e.closest('style, script, option, svg, [data-mime-type$="err"] span')) continue;
        const style = getComputedStyle(e), color = parse(style.color);
        const shown = over([...color.slice(0, 3), (color[3] ?? 1) * faint(e)], below);
        const [dark, bright] = [light(shown), light(below)].sort((a, b) => a - b);
        const size = parseFloat(style.fontSize);
        const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
        if (bright / dark >= (large ? 3 : 4.5)) continue;
        const colors = [shown, below].map(rgb => rgb.map(Math.round).join(' ')).join(' on ');
        found.add(`${cell.model.id}: hard to read in THEME: ${text.slice(0, 60)} (${colors})`);
      }
    }
  }
  return [...found];
}"""
THEMED = "name => document.body.dataset.jpThemeName === name"


def find_browser():
    """Path of a Chromium, or None; the variable CHROMIUM names one that is not on the path."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)


@contextmanager
def start(folder):
    """A `Lab` that writes into `folder` only; nothing of it runs on afterwards."""
    env = dict(os.environ, **{name: str(folder / name.lower()) for name in FOLDERS})
    news = folder / "jupyterlab_settings_dir/@jupyterlab/apputils-extension"
    news.mkdir(parents=True)
    (news / "notification.jupyterlab-settings").write_text(json.dumps(NO_NEWS))
    (folder / "notebooks").mkdir()
    log = folder / "jupyter.log"
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.root_dir={folder}"]
    command += ["--LabApp.expose_app_in_browser=True"]
    with log.open("w") as out:
        # In a session of its own: Ctrl-C is for pytest, which then ends the server.
        server = psutil.Popen(command, env=env, stdout=out, stderr=out, start_new_session=True)
    try:
        url, token = address(server, folder / "jupyter_runtime_dir", log)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=find_browser(), args=FLAGS)
            yield Lab(folder, log, url, token, browser)
            browser.close()
    finally:
        with suppress(psutil.NoSuchProcess):
            family = [server, *server.children(recursive=True)]
            server.terminate()  # it ends its kernels first
            for process in psutil.wait_procs(family, timeout=20)[1]:
                process.kill()


def address(server, folder, log):
    """Address and token of the server, which takes a free port and says in a file which."""
    for _ in range(600):
        with suppress(StopIteration, ValueError):  # no file yet, or half of one
            said = json.loads(next(folder.glob("jpserver-*.json")).read_text())
            return said["url"], said["token"]
        if server.poll() is not None:
            break
        time.sleep(0.2)
    raise RuntimeError(f"JupyterLab does not start:\n{log.read_text()}")


@dataclass
class Visit:
    """Problems and moves, a line each, and what the server logged meanwhile."""

    problems: list[str] = field(default_factory=list)
    moves: list[str] = field(default_factory=list)
    log: str = ""


@dataclass
class Lab:
    folder: Path
    log: Path
    url: str
    token: str
    browser: Browser

    def visit(self, notebook, pictures=None, patience=PATIENCE):
        """Run a notebook and move all its controls; screenshots go to the folder `pictures`."""
        visit, logged, w = Visit(), len(self.log.read_text()), None
        say = visit.problems.append
        page = self.browser.new_page(viewport={"width": 1200, "height": 900})
        page.on("pageerror", lambda error: say(f"console: {error}"))
        page.on("console", lambda line: line.type == "error" and say(console(line)))
        try:
            w = self.open(page, notebook)
            visit.problems += run(page, w)
            for what, problems in moves.move_all(page, w, cells_of(w), patience):
                visit.moves.append(what)
                visit.problems += [f"{what}: {problem}" for problem in problems]
        except BrowserError as error:
            say(f"browser: {error}")
        with suppress(BrowserError):
            visit.problems += [f"dialog: {t}" for t in page.locator(".jp-Dialog").all_inner_texts()]
            if w:
                visit.problems += look(page, w, pictures, notebook.stem)
            if w:
                w.evaluate(SHUT)  # the next notebook needs its memory
        page.close()
        visit.log = self.log.read_text()[logged:]
        return visit

    def open(self, page, notebook):
        """The notebook in JupyterLab, without outputs: no stored one may pass for a new one."""
        content = json.loads(notebook.read_text(encoding="utf-8"))
        for cell in guard.code_cells(content):
            cell.update(outputs=[], execution_count=None)
        path = f"notebooks/{notebook.name}"
        (self.folder / path).write_text(json.dumps(content))
        # A workspace of its own: the common one would open earlier notebooks as well.
        page.goto(f"{self.url}lab/workspaces/{notebook.stem}/tree/{path}?token={self.token}")
        page.wait_for_function(OPENED, arg=path, timeout=120_000)
        return page.evaluate_handle("jupyterapp.shell.currentWidget")


def console(line):
    return f"console: {line.text} {line.location['url']}"


def cells_of(w):
    """The code cells, as in a file; JupyterLab does not run empty ones."""
    cells = guard.code_cells({"cells": w.evaluate(CELLS)})
    return [cell for cell in cells if guard.source(cell).strip()]


def run(page, w):
    """Run all cells; what is wrong with their outputs."""
    w.evaluate(RUN)
    end = time.monotonic() + RUN_LIMIT
    while True:
        page.wait_for_timeout(1000)
        cells = cells_of(w)
        problems = [problem for cell in cells for problem in output_problems(cell)]
        waiting = [f"{cell['id']}: not run" for cell in cells if cell["execution_count"] is None]
        stopped = any(": error: " in problem for problem in problems)  # Lab leaves the rest
        done = w.evaluate(IDLE) and (stopped or not waiting)
        if done or time.monotonic() > end:
            return problems + waiting


def output_problems(cell):
    for output in cell["outputs"]:
        text = guard.output_text(output).strip()
        if output.get("name") == "stderr":
            yield f"{cell['id']}: stderr: {text}"
        elif output["output_type"] == "error":
            lines = "\n".join(output["traceback"]).strip().splitlines()
            if "raises-exception" not in guard.tags(cell):
                yield f"{cell['id']}: error: {output['ename']}: {output['evalue']}"
            elif len(lines) != 1:
                yield f"{cell['id']}: a check should say one line and show no traceback"
        elif guard.WIDGET in output.get("data", {}) and not (
            moves.PANEL in text or PROGRESS in text
        ):
            yield f"{cell['id']}: a widget that is no Panel: {text}"


def look(page, w, folder, name):
    """Text that is hard to read, in the light and in the dark theme; screenshots into `folder`.

    The whole notebook, on as many pages as it takes; one page in the dark theme is photographed.
    """
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    problems = {}
    page.set_viewport_size({"width": 1200, "height": PAGE})
    pages = range(0, w.evaluate(SCROLL, 0), PAGE - 200)
    for theme in ("Light", "Dark"):
        w.evaluate(THEME, f"JupyterLab {theme}")
        page.wait_for_function(THEMED, arg=f"JupyterLab {theme}")
        for number, top in enumerate(pages, start=1):
            pictured = folder and (theme == "Light" or number == 1)
            w.evaluate(SCROLL, top)
            page.wait_for_timeout(1500 if pictured else 500)  # what comes into view is drawn then
            found = w.evaluate(PALE)
            problems |= dict.fromkeys(line.replace("THEME", theme.lower()) for line in found)
            if pictured:
                page.screenshot(path=folder / f"{name}-{theme.lower()}-{number}.png")
    return list(problems)
