"""Each rule of the notebook guard refuses its own mistake, and only that: one good notebook in
memory, one change at a time."""

import copy
import json

import notebook_guard
import pytest


def markdown(name, text):
    return {"cell_type": "markdown", "id": name, "metadata": {}, "source": text}


def code(name, text, *outputs, tags=()):
    return {
        "cell_type": "code",
        "id": name,
        "metadata": {"tags": list(tags)} if tags else {},
        "source": text,
        "outputs": list(outputs),
        "execution_count": None,
    }


def printed(text, name="stdout"):
    return {"output_type": "stream", "name": name, "text": text}


def shown(**data):
    data = {mime.replace("_", "/"): text for mime, text in data.items()}
    return {"output_type": "display_data", "metadata": {}, "data": data}


def raised(text):
    return {"output_type": "error", "ename": "NotSolved", "evalue": text, "traceback": [text]}


def hidden(*parts):
    cell = code(*parts, tags=["hide-output"])
    cell["metadata"]["jupyter"] = {"outputs_hidden": True}
    return cell


def exercise(number):
    name = f"exercise-{number}"
    task = f"**Exercise {number}.** *5 minutes, easy*\n\n<details>A hint.</details>"
    check = code(f"{name}-check", "check(f)", raised("not yet"), tags=["check", "raises-exception"])
    solution = code(f"{name}-solution", "def g(): pass", tags=["solution", "hide-input"])
    solution["metadata"]["jupyter"] = {"source_hidden": True}
    stub = code(f"{name}-stub", "def f():\n    print('later')", tags=["exercise"])
    return markdown(name, task), stub, check, solution


def number(notebook):
    for count, cell in enumerate(notebook_guard.code_cells(notebook), start=1):
        cell["execution_count"] = count


SUM = "(three exercises: 15 more)"
HEADER = f"Reading time: 40 minutes {SUM}. Running time: under 90 seconds on one core."
WARM_UP = "<details><summary>Why?</summary>\n\nSo.\n\n</details>\n\n"
OPENING = "By the end you will have shown that\n\n1. it holds;\n2. it fails.\n\n"
OPENING += "*Warm up* (two minutes each):\n\n" + 3 * WARM_UP
CLOSING = "*You can stop here*.\n\n**In five lines**\n\n* one\n* two\n* three\n* four\n* five\n\n"
CLOSING += (
    "**The code of the chapter alone**\n\n**Where this lives.** There.\n\n**Next.** Chapter 2."
)
FIGURE = shown(image_png="aGk=", text_plain="<Figure size 600x350 with 1 Axes>")


@pytest.fixture
def good():
    notebook = {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        "cells": [
            markdown("title", f"# Causal attention\n\n{HEADER}\n\n{OPENING}"),
            hidden("sum", "x = 1; y = 2  # a semicolon inside is fine\nprint(x + y)", printed("3")),
            code("curve", "plt.plot(x)\nplt.show()", FIGURE),
            markdown("curve-words", "What you see: a line.\n\n## Next\n\n```\n# no heading\n```"),
            *exercise(1),
            *exercise(2),
            *exercise(3),
            code("link", "page", shown(text_html='<a href="https://a.org/b/c">1/2</a><br/>')),
            code("claims", "table", printed("holds")),
            markdown("summary", CLOSING),
        ],
    }
    number(notebook)
    return notebook


def cell(notebook, name):
    return next(cell for cell in notebook["cells"] if cell["id"] == name)


def test_the_good_notebook_passes(good):
    assert notebook_guard.problems(json.dumps(good)) == []


def put(name, **values):
    return lambda notebook: cell(notebook, name).update(values)


def mark(name, **values):
    return lambda notebook: cell(notebook, name)["metadata"].update(values)


def output(name, *outputs):
    return put(name, outputs=list(outputs))


def drop(*names):
    def change(notebook):
        notebook["cells"] = [cell for cell in notebook["cells"] if cell["id"] not in names]

    return change


def replace(name, old, new, count=-1):
    def change(notebook):
        found = cell(notebook, name)
        assert old in found["source"]
        found["source"] = found["source"].replace(old, new, count)

    return change


def exercise_cells(number):
    return [cell["id"] for cell in exercise(number)]


def append(*cells):
    return lambda notebook: notebook["cells"].extend(copy.deepcopy(cells))


def many(count, *tags):
    pairs = [(markdown(f"why{i}", "why"), code(f"more{i}", "1", tags=tags)) for i in range(count)]
    return append(*(one for pair in pairs for one in pair))


MISTAKES = {
    "format 4.4": ("valid", lambda n: n.update(nbformat_minor=4)),
    "unknown key": ("valid", put("sum", extra=1)),
    "no id": ("valid", lambda n: cell(n, "sum").pop("id")),
    "repeated id": ("ids", put("sum", id="curve")),
    "random id": ("ids", put("sum", id="3f2a9c1b")),
    "random uuid": ("ids", put("sum", id="3f2a9c1b-0a1b-4c2d-8e3f-0123456789ab")),
    "other kernel": ("kernel", lambda n: n["metadata"]["kernelspec"].update(name="conda-env")),
    "large budget": ("budget", lambda n: n["metadata"].update(mylib={"budget_seconds": 500})),
    "never run": ("counts", put("sum", execution_count=None)),
    "run twice": ("counts", put("sum", execution_count=7)),
    "ignored by tag": ("compared", mark("claims", tags=["nbval-ignore-output"])),
    "ignored by comment": ("compared", put("claims", source="# NBVAL_SKIP\ntable")),
    "print without output": ("outputs_present", output("sum")),
    "show without output": ("outputs_present", output("curve")),
    "print in a loop": (
        "outputs_present",
        put("exercise-1-solution", source="for i in x:\n    print(i)"),
    ),
    "print after a magic": ("outputs_present", put("exercise-1-solution", source="%pwd\nprint(1)")),
    "error": ("errors", output("link", raised("x"))),
    "solved stub": ("errors", output("exercise-1-check")),
    "stderr": ("stderr", output("sum", printed("warning", "stderr"))),
    "timing": ("noise", mark("sum", execution={"iopub.status.idle": "2026"})),
    "widget state": ("noise", lambda n: n["metadata"].update(widgets={})),
    "widget id": ("noise", output("link", shown(**{notebook_guard.WIDGET: {}}))),
    "address": ("machine", output("sum", printed("<object at 0x7f3a5c0d1e40>"))),
    "path in text": ("machine", output("sum", printed("saved to /home/ana/course/x.csv"))),
    "path in an error": (
        "machine",
        output("exercise-1-check", raised("File \x1b[32m/tmp/a/b.py\x1b[0m")),
    ),
    "path in html": ("machine", output("link", shown(text_html='<img alt="" src="/usr/x/a">'))),
    "path on Windows": ("machine", output("sum", printed(r"C:\Users\ana"))),
    "semicolon": ("semicolons", put("curve", source="plt.show();")),
    "semicolon, comment": ("semicolons", put("claims", source="table;  # quiet\n")),
    "two titles": ("headings", put("curve-words", source="What you see: x\n\n# Again\n\n## On")),
    "no title": ("headings", put("title", source=f"{HEADER}\n\n{OPENING}")),
    "skipped level": (
        "headings",
        put("curve-words", source="What you see: x\n\n### Deep\n\n## On"),
    ),
    "no header": ("header", replace("title", HEADER, SUM)),
    "no number": (
        "header",
        replace("title", HEADER, f"Reading time: 1 {SUM}. Running time: short."),
    ),
    "another time": (
        "header",
        put("title", source=f"# T\n\n{HEADER.replace('90', '30')}\n\n{OPENING}"),
    ),
    "a budget not said": ("header", lambda n: n["metadata"].update(mylib={"budget_seconds": 60})),
    "code first": ("header", lambda n: n["cells"].insert(0, code("first", "1"))),
    "no claims": ("claims", drop("claims")),
    "empty claims": ("claims", output("claims")),
    "figure without words": ("figures", put("curve-words", source="## Exercise")),
    "figure at the end": ("figures", output("claims", FIGURE)),
    "empty alt": ("figures", mark("curve", mystnb={"image": {"alt": " "}})),
    "another alt": ("figures", mark("curve", mystnb={"image": {"alt": "a curve."}})),
    "image without alt": ("figures", output("link", shown(text_html='<img src="data:x">'))),
    "nothing to stop at": ("frame", replace("summary", "*You can stop here*", "Go on")),
    "six lines": ("frame", replace("summary", "* five", "* five\n* six")),
    "four lines": ("frame", replace("summary", "* five\n", "")),
    "no Next": ("frame", replace("summary", "**Next.**", "And")),
    "five claims": ("frame", replace("title", "1. it", "1. a\n2. b\n3. c\n1. it")),
    "two warm-ups": ("frame", replace("title", WARM_UP, "", 1)),
    "no predict step": ("folded", mark("sum", tags=[], jupyter={})),
    "an answer in view": ("folded", mark("sum", jupyter={})),
    "an answer in the book": ("folded", mark("curve", jupyter={"outputs_hidden": True})),
    "a solution in view": ("folded", mark("exercise-1-solution", jupyter={})),
    "two exercises": ("exercises", drop("exercise-3", *exercise_cells(3))),
    "no check": ("exercises", drop("exercise-2-check")),
    "no hint": ("exercises", replace("exercise-2", "<details>A hint.</details>", "")),
    "no minutes": ("exercises", replace("exercise-2", "*5 minutes, easy*", "Easy.")),
    "a wrong sum": ("exercises", replace("title", "15 more", "20 more")),
    "an untagged solution": ("exercises", mark("exercise-1-solution", tags=["hide-input", "side"])),
    "too long": ("length", many(32)),
    "three in a row": ("rhythm", append(code("a", "1"), code("b", "2"), code("c", "3"))),
    "too large": ("size", output("sum", printed("x" * 1_000_000))),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_by_its_rule_alone(good, mistake):
    rule, change = MISTAKES[mistake]
    change(good)
    if rule != "counts":
        number(good)
    found = notebook_guard.problems(json.dumps(good))
    assert found and {line.partition(":")[0] for line in found} == {rule}, found


def test_every_rule_has_a_mistake():
    assert {rule for rule, _ in MISTAKES.values()} == {"valid", "size", *notebook_guard.RULES}


def test_exercises_do_not_count_on_the_main_line(good):
    many(40, "exercise")(good)
    number(good)
    assert notebook_guard.problems(json.dumps(good)) == []
