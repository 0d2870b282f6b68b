"""The frame that all chapters share: how one opens, where one may rest, how it closes, and that
each exercise is whole. Part of the rules of `notebook_guard`."""

import re

from notebook_cells import code_cells, prose, tags

# What every chapter says somewhere, and how it is recognised.
FRAME = {
    "By the end ... you will have shown": r"By the end.{0,20}you will have shown",
    "a place to stop": r"You can stop here",
    "In five lines": r"\*\*In five lines\*\*",
    "The code of the chapter alone": r"\*\*The code of the [a-z ]+ alone\*\*",
    "Where this lives": r"\*\*Where this lives\.\*\*",
    "Next": r"\*\*Next\.\*\*",
}
WARM_UPS = 3
EXERCISES = 3
# A hidden answer: JupyterLab folds by the first, the book by the second.
HIDDEN = {"hide-output": "outputs_hidden", "hide-input": "source_hidden"}
PARTS = {
    "stub": {"exercise"},
    "check": {"check", "raises-exception"},
    "solution": {"solution", "hide-input"},
}


def frame(notebook):
    text = prose(notebook)
    for name, pattern in FRAME.items():
        if not re.search(pattern, text):
            yield f"no {name!r}"
    summary = re.search(FRAME["In five lines"] + r"\n\n((?:[*-] .*\n?(?:(?: ).*\n?)*)*)", text)
    if summary and (lines := len(re.findall(r"^[*-] ", summary[1], re.M))) != 5:
        yield f"the summary has {lines} lines"
    claims = re.search(FRAME["By the end ... you will have shown"] + r".*?\n\n((?:.+\n)*)", text)
    if claims and (lines := len(re.findall(r"^\d\. ", claims[1], re.M))) > 4:
        yield f"{lines} claims, the limit is 4"
    if "self-check" not in text and warm_ups(text) != WARM_UPS:
        yield f"{warm_ups(text)} warm-up questions, wanted {WARM_UPS}, or a self-check"


def warm_ups(text):
    opening = text.partition("\n## ")[0]
    return opening.partition("*Warm up*")[2].count("<details>")


def folded(notebook):
    """What answers a *predict* step, and each solution, is folded in JupyterLab and the book."""
    hidden = 0
    for cell in code_cells(notebook):
        folds = cell["metadata"].get("jupyter", {})
        for tag, key in HIDDEN.items():
            if (tag in tags(cell)) != bool(folds.get(key)):
                yield f"{cell['id']}: the tag {tag} and jupyter.{key} go together"
        hidden += "hide-output" in tags(cell)
    if not hidden:
        yield "no predict step: no cell whose output is hidden"


def exercises(notebook):
    """At least three, each with its task, stub, check and solution, in this order; the title says
    the sum of their minutes."""
    names = [cell["id"] for cell in notebook["cells"]]
    numbers = sorted({m[1] for name in names if (m := re.match(r"exercise-(\d)-", name))})
    if len(numbers) < EXERCISES:
        yield f"{len(numbers)} exercises, wanted {EXERCISES}"
    minutes = 0
    for number in numbers:
        cells = [c for c in notebook["cells"] if c["id"].startswith(f"exercise-{number}-")]
        parts = [(part, c) for c in cells for part in PARTS if c["id"].endswith(part)]
        if [part for part, _ in parts] != list(PARTS):
            yield f"exercise {number}: its cells are {', '.join(part for part, _ in parts)}"
        for part, cell in parts:
            if not PARTS[part] <= tags(cell):
                yield f"{cell['id']}: lacks a tag of {', '.join(sorted(PARTS[part]))}"
        before = prose({"cells": notebook["cells"][: names.index(parts[0][1]["id"])]})
        task = before[before.rfind("Exercise") :]
        asked = re.search(r"\*(\d+) minutes", task)
        if not (asked and "<details>" in task):
            yield f"exercise {number}: the task before it lacks its minutes, or a hint"
        minutes += int(asked[1]) if asked else 0
    if f"(three exercises: {minutes} more)" not in prose(notebook).partition("\n## ")[0]:
        yield f"the title does not say that the three exercises take {minutes} minutes more"


RULES = (frame, folded, exercises)
