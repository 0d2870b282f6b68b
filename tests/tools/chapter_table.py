"""The README's table of chapters: titles and reading times as in the notebooks, running times as in
the last test run.

    python tests/tools/chapter_table.py      (after `make test`)

It writes `data/results/notebooks.json` and the table; what a chapter shows is the README's
own text. `tests/test_chapter_table.py` keeps them together.
"""

import json
import re
import sys

import notebook_env
from notebook_cells import prose

README = notebook_env.ROOT / "README.md"
RESULTS = notebook_env.ROOT / "data" / "results" / "notebooks.json"
CACHE = notebook_env.ROOT / ".pytest_cache" / "v" / "mylib" / "notebook_seconds"
COMMAND = "make test, then python tests/tools/chapter_table.py"
HEAD = "| | chapter | what it shows | reading | running |\n|---|---|---|---|---|\n"
ROW = re.compile(r"^\| (\w\w) \| \[(.+?)\]\(notebooks/(.+?)\) \| (.+?) \|.*$", re.M)


def rows(text):
    """Number, title, file and words of each chapter in the README."""
    return ROW.findall(text)


def table(shows, seconds):
    """The table. ``shows``: file -> what it shows; ``seconds``: file -> measured running time."""
    lines = []
    for path in notebook_env.notebooks():
        text = prose(json.loads(path.read_text(encoding="utf-8")))
        title = re.search(r"^# (.+)$", text, re.M)[1]
        minutes = re.search(r"Reading time: (\d+) minutes", text)[1]
        words = shows.get(path.name, "(to be said)")
        link = f"[{title}](notebooks/{path.name})"
        lines.append(
            f"| {path.name[:2]} | {link} | {words} | {minutes} min | {seconds[path.name]:.0f} s |"
        )
    return HEAD + "\n".join(lines) + "\n"


def with_table(text, seconds):
    """The README with its table written anew."""
    shows = {file: words for _, _, file, words in rows(text)}
    return re.sub(
        r"^\| \| chapter \|.*?\n(?=\n)", lambda _: table(shows, seconds), text, flags=re.M | re.S
    )


def measured():
    """Seconds of each notebook in the last full test run; exits where one was left out."""
    found = json.loads(CACHE.read_text()) if CACHE.exists() else {}
    seconds = {name.rpartition("/")[2]: value for name, value in found.items()}
    if missing := [p.name for p in notebook_env.notebooks() if p.name not in seconds]:
        sys.exit(f"not in the last test run (make test): {', '.join(missing)}")
    return {p.name: round(seconds[p.name], 1) for p in notebook_env.notebooks()}


if __name__ == "__main__":
    seconds = measured()
    RESULTS.write_text(json.dumps({"command": COMMAND, "seconds": seconds}, indent=2) + "\n")
    README.write_text(with_table(README.read_text(encoding="utf-8"), seconds), encoding="utf-8")
