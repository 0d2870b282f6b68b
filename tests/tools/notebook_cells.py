"""The parts of a notebook's JSON that its rules look at."""

import re

ANSI = re.compile(r"\x1b\[[0-9;]*m")


def code_cells(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def prose(notebook):
    """All markdown, in order."""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    return "\n\n".join(map(source, cells))


def tags(cell):
    return set(cell["metadata"].get("tags", []))


def joined(text):
    return "".join(text) if isinstance(text, list) else text


def source(cell):
    return joined(cell["source"])


def output_text(output):
    """All that a reader may see of an output as text, without colours."""
    shown = [output.get("text", ""), output.get("evalue", ""), *output.get("traceback", [])]
    shown += [text for mime, text in output.get("data", {}).items() if mime.startswith("text/")]
    return ANSI.sub("", "\n".join(map(joined, shown)))


def caption(text: str) -> str:
    """What a figure's alt text has to be: its "What you see" paragraph as plain words, or ""."""
    words = text.partition("What you see:")[2]
    return " ".join(words.strip("* ").split("\n\n")[0].replace("*", "").replace("`", "").split())
