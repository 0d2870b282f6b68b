"""Builds the book, a static site, from the committed notebooks: `make book`, into build/book.

Nothing is executed. The pages are gathered in build/book-source, where they lie as in the
repository, so that every link between them holds in both places.
"""

import importlib.util
import json
import pkgutil
import re
import shutil
import sys
from inspect import isroutine
from pathlib import Path
from urllib.parse import unquote

from docutils.nodes import make_id
from sphinx.cmd.build import build_main

ROOT = Path(__file__).resolve().parents[1]
SOURCE, SITE = ROOT / "build" / "book-source", ROOT / "build" / "book"
PAGES = ("README.md", "CONTRIBUTING.md", "LICENSE", "LICENSE-PROSE", "data/README.md")
PAGES += ("notebooks/*.ipynb", "notebooks/teaching.md", "data/results/*")
WIDGET = ": run the cell to move "  # mylib.widgets.panel.Panel.__repr__
BAR = "%|"  # in the text form of tqdm's bar
FOLDED = {"hide-input": "the solution", "hide-output": "the answer"}  # by tag
# What a reader of `mylib` looks for first; the other modules follow, then what serves the course.
FIRST = ("masks", "leaks", "objectives", "sampling", "model", "train", "convert", "gazette")
COURSE = ("exercises", "widgets", "commands", "experiments")


def gather() -> None:
    """All pages of the book in `SOURCE`: the repository's, the book's own, one for each module."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    for page in (page for pattern in PAGES for page in sorted(ROOT.glob(pattern))):
        target = SOURCE / page.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        if page.suffix == ".ipynb":
            notebook = json.loads(page.read_text("utf-8"))
            target.write_text(printed(notebook, page.stem.partition("-")[0]), "utf-8")
        else:
            shutil.copy2(page, target)
    for page in (ROOT / "book").glob("*.md"):
        shutil.copy2(page, SOURCE / page.name)
    (SOURCE / "api").mkdir()
    for name in modules():
        (SOURCE / "api" / f"{name}.md").write_text(reference(name), "utf-8")
    with open(SOURCE / "reference.md", "a", encoding="utf-8") as page:
        page.write(
            "\n".join(["\n```{toctree}\n:titlesonly:\n", *map("api/{}".format, modules()), "```\n"])
        )


def printed(notebook: dict, number: str) -> str:
    """The notebook as it stands on paper: its number before the title, no progress bars, a word in
    each widget's place, and links of outputs that lead to pages."""
    first = notebook["cells"][0]
    first["source"] = re.sub(r"^# ", f"# {number} · ", "".join(first["source"]))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = re.sub(r"\.ipynb#([^)\s]+)\)", anchor, "".join(cell["source"]))
        for tag, what in FOLDED.items():
            if tag in cell["metadata"].get("tags", []):
                words = {"code_prompt_show": f"Show {what}", "code_prompt_hide": f"Hide {what}"}
                cell["metadata"].setdefault("mystnb", {}).update(words)
        kept = []
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            text = "".join(data.get("text/plain", ""))
            if WIDGET in text:
                name, _, controls = text.partition(WIDGET)
                output["data"] = {"text/html": note(name, controls)}
            if "text/html" in data:
                html = "".join(output["data"]["text/html"])
                output["data"]["text/html"] = re.sub(r'href="([\w-]+)\.ipynb(#[^"]+)?"', page, html)
            if BAR not in text or "text/html" in data:
                kept.append(output)
        if "outputs" in cell:
            cell["outputs"] = kept
    return json.dumps(notebook)


def anchor(link: re.Match) -> str:
    """The end of a link to a heading, named as JupyterLab does, as Sphinx names it."""
    return f".ipynb#{make_id(unquote(link[1]))})"


def page(link: re.Match) -> str:
    """A link to a heading of a notebook, named as JupyterLab does, as one to a page of the book."""
    place = f"#{make_id(unquote(link[2]))}" if link[2] else ""
    return f'href="{link[1]}.html{place}"'


def note(widget: str, controls: str) -> str:
    return (
        '<div class="admonition note"><p class="admonition-title">A widget</p>'
        f"<p><code>{widget}</code> moves in JupyterLab (<code>make lab</code>), by mouse or by "
        f"keyboard. Its controls: {controls}.</p></div>"
    )


def modules() -> list[str]:
    """Modules and packages of mylib that have a page, in the order of the book."""
    package = importlib.util.find_spec("mylib").submodule_search_locations
    found = [m.name for m in pkgutil.iter_modules(package) if not m.name.startswith("_")]
    rest = [name for name in found if name not in (*FIRST, *COURSE)]
    return [*FIRST, *rest, *(name for name in COURSE if name in found)]


def reference(name: str) -> str:
    """The page of `mylib.<name>`; for what serves the course a page of all its modules."""
    text = f"# mylib.{name}\n\n" + automodule(f"mylib.{name}")
    if name in COURSE:
        package = importlib.util.find_spec(f"mylib.{name}").submodule_search_locations
        for module in pkgutil.iter_modules(package):
            text += f"\n## {module.name}\n\n" + automodule(f"mylib.{name}.{module.name}")
    return text


def automodule(name: str) -> str:
    """All that a module makes public; autodoc itself passes over values, as `causal` is one."""
    module = importlib.import_module(name)
    public = {each: getattr(module, each) for each in getattr(module, "__all__", ())}
    values = [each for each, it in public.items() if not (isinstance(it, type) or isroutine(it))]
    directives = [f".. automodule:: {name}", *(f".. autodata:: {name}.{each}" for each in values)]
    return "```{eval-rst}\n" + "\n\n".join(directives) + "\n```\n"


if __name__ == "__main__":
    gather()
    shutil.rmtree(SITE, ignore_errors=True)
    options = ["--fail-on-warning", "--keep-going", "--fresh-env", "--quiet", "-d"]
    options += [str(ROOT / "build" / "book-cache"), "-c", str(ROOT / "book")]
    sys.exit(build_main([*options, str(SOURCE), str(SITE)]))
