"""The rules that every committed chapter keeps, checked from the file alone (no kernel).

`problems(text)` returns one line for each broken rule, `rule: where: what`. Each rule is a
generator over the parsed notebook; CONTRIBUTING.md says the same in words.
"""

import ast
import io
import json
import re
import tokenize
import warnings

import nbformat
import notebook_frame
from IPython.core.inputtransformer2 import TransformerManager
from notebook_cells import caption, code_cells, joined, output_text, source, tags

MAX_BYTES = 1_000_000
MAX_SECONDS = 90
MAX_MAIN_CELLS = 35
SIDE_TAGS = {"exercise", "check", "solution", "side"}  # not counted on the main line
EXERCISE_TAGS = {"exercise", "check", "solution"}  # may follow one another without a sentence
WIDGET = "application/vnd.jupyter.widget-view+json"
SHOWING = {"print", "display", "plt.show"}
UNCOMPARED_TAGS = {"nbval-ignore-output", "nbval-skip", "nbval-raises-exception", "skip-execution"}

READABLE_ID = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
RANDOM_ID = re.compile(r"[0-9a-f]{8,}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
ADDRESS = re.compile(r"0x[0-9a-fA-F]{6,}")
# A rooted path of two parts or more, but not the inside of a URL or a closing HTML tag.
PATH = re.compile(r"(?<![\w.:/<~-])/[A-Za-z][\w.-]*/[\w.-]+|(?<!\w)[A-Za-z]:\\\w|~/\w")


def problems(text: str) -> list[str]:
    """All broken rules of one notebook, given as the text of its file."""
    if found := [f"valid: {message}" for message in invalid(text)]:
        return found  # the other rules may rely on the format
    notebook = json.loads(text)
    found = [f"{name}: {message}" for name, rule in RULES.items() for message in rule(notebook)]
    if len(text.encode()) >= MAX_BYTES:
        found.append(f"size: {len(text.encode()):,} bytes, the limit is {MAX_BYTES:,}")
    return found


def invalid(text):
    try:
        notebook = json.loads(text)
        if (notebook["nbformat"], notebook["nbformat_minor"]) != (4, 5):
            yield f"nbformat {notebook['nbformat']}.{notebook['nbformat_minor']}, wanted 4.5"
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # missing and repeated ids: the rule `ids` names them
            nbformat.validate(json.loads(text))
    except (ValueError, KeyError, TypeError, nbformat.ValidationError) as error:
        yield f"{type(error).__name__}: {str(error).splitlines()[0]}"
        return
    missing = [number for number, cell in enumerate(notebook["cells"]) if "id" not in cell]
    if missing:
        yield f"cells without an id: {missing}"


def ids(notebook):
    seen = set()
    for cell in notebook["cells"]:
        name = cell["id"]
        if name in seen:
            yield f"{name}: used twice"
        seen.add(name)
        if RANDOM_ID.fullmatch(name) or not READABLE_ID.fullmatch(name):
            yield f"{name}: not a readable name (lower-case words joined by hyphens)"


def kernel(notebook):
    if notebook["metadata"].get("kernelspec", {}).get("name") != "python3":
        yield "the kernelspec is not python3"


def budget(notebook):
    seconds = notebook["metadata"].get("mylib", {}).get("budget_seconds", MAX_SECONDS)
    if not isinstance(seconds, int | float) or not 0 < seconds <= MAX_SECONDS:
        yield f"mylib.budget_seconds is {seconds!r}, wanted a number up to {MAX_SECONDS}"


def counts(notebook):
    for expected, cell in enumerate(code_cells(notebook), start=1):
        if cell["execution_count"] != expected:
            yield f"{cell['id']}: execution_count {cell['execution_count']}, wanted {expected}"


def compared(notebook):
    """Nothing may be exempt from the comparison."""
    for cell in code_cells(notebook):
        if tags(cell) & UNCOMPARED_TAGS or re.search(r"^\s*#\s*NBVAL_", source(cell), re.M):
            yield f"{cell['id']}: asks not to be compared"


def outputs_present(notebook):
    for cell in code_cells(notebook):
        if "raises-exception" not in tags(cell) and shows(source(cell)) and not cell["outputs"]:
            yield f"{cell['id']}: prints or shows something, but no output is stored"


def errors(notebook):
    for cell in code_cells(notebook):
        raised = [output for output in cell["outputs"] if output["output_type"] == "error"]
        expected = "raises-exception" in tags(cell)
        if raised and not expected:
            yield f"{cell['id']}: stored error {raised[0]['ename']}, and no tag raises-exception"
        if expected and not raised:
            yield f"{cell['id']}: tag raises-exception, but no error is stored"


def stderr(notebook):
    for cell in code_cells(notebook):
        if any(output.get("name") == "stderr" for output in cell["outputs"]):
            yield f"{cell['id']}: wrote to stderr"


def noise(notebook):
    """What differs from run to run and says nothing."""
    if "widgets" in notebook["metadata"]:
        yield "saved widget state"
    for cell in notebook["cells"]:
        if {"execution", "ExecuteTime"} & set(cell["metadata"]):
            yield f"{cell['id']}: timing metadata"
        for output in cell.get("outputs", []):
            if WIDGET in output.get("data", {}):
                yield f"{cell['id']}: a widget's model id, which is random"


def machine(notebook):
    """Addresses and paths belong to the machine that ran the cell."""
    for cell in code_cells(notebook):
        for text in map(output_text, cell["outputs"]):
            for pattern, what in ((ADDRESS, "address"), (PATH, "absolute path")):
                if match := pattern.search(text):
                    yield f"{cell['id']}: {what} in the output: {match[0]}"


def semicolons(notebook):
    for cell in code_cells(notebook):
        if ends_with_semicolon(source(cell)):
            yield f"{cell['id']}: ends with `;`"


def headings(notebook):
    titles, level = 0, 0
    for cell in notebook["cells"]:
        if cell["cell_type"] != "markdown":
            continue
        prose = re.sub(r"^(```|~~~).*?^\1", "", source(cell), flags=re.M | re.S)
        for match in re.finditer(r"^(#{1,6})\s+(.+)$", prose, re.M):
            depth = len(match[1])
            titles += depth == 1
            if depth > level + 1:
                yield f"{cell['id']}: {match[0]!r} skips a level (after level {level})"
            level = depth
    if titles != 1:
        yield f"{titles} headings of level 1, wanted exactly one"


def header(notebook):
    first = notebook["cells"][0] if notebook["cells"] else None
    if first is None or first["cell_type"] != "markdown":
        yield "the first cell is not markdown"
        return
    for words in ("Reading time", "Running time"):
        if words not in source(first):
            yield f"{first['id']}: the header lacks {words!r}"
    # The test run holds the chapter to its budget, and so to what its header says.
    said = re.search(r"Running time: under (\d+) seconds", source(first))
    seconds = notebook["metadata"].get("mylib", {}).get("budget_seconds", MAX_SECONDS)
    if said is None or (not [*budget(notebook)] and int(said[1]) != seconds):
        found = f"{said[1]} seconds" if said else "no 'Running time: under N seconds'"
        yield f"{first['id']}: the header says {found}, the budget is {seconds}"


def claims(notebook):
    table = [cell for cell in code_cells(notebook) if cell["id"] == "claims"]
    if not table or not table[0]["outputs"]:
        yield "no code cell with the id `claims` and an output (the claims table)"


def figures(notebook):
    """Each figure is followed by what to see in it; the words are also its alt text."""
    cells = notebook["cells"]
    for cell, after in zip(cells, [*cells[1:], None], strict=True):
        images = [o for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
        if images and (
            after is None
            or after["cell_type"] != "markdown"
            or "What you see:" not in source(after)
        ):
            yield f"{cell['id']}: a figure without 'What you see:' in a markdown cell after it"
        alt = cell["metadata"].get("mystnb", {}).get("image", {}).get("alt")
        if images and alt is not None and not str(alt).strip():
            yield f"{cell['id']}: empty alt text"
        elif images and alt is not None and alt != caption(source(after or {"source": ""})):
            yield f"{cell['id']}: the alt text is not its words (`make notebooks` stores it)"
        for output in cell.get("outputs", []):
            html = joined(output.get("data", {}).get("text/html", ""))
            if re.search(r"<img\b(?![^>]*\balt=)", html):
                yield f"{cell['id']}: an <img> without alt text"


def length(notebook):
    main = [cell for cell in code_cells(notebook) if not tags(cell) & SIDE_TAGS]
    if len(main) > MAX_MAIN_CELLS:
        yield f"{len(main)} code cells on the main line, the limit is {MAX_MAIN_CELLS}"


def rhythm(notebook):
    """At most two code cells in a row; those of an exercise are passed over."""
    row = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            row = 0
        elif not tags(cell) & EXERCISE_TAGS:
            row += 1
            if row == 3:
                yield f"{cell['id']}: third code cell in a row without a sentence between"


RULES = {
    rule.__name__: rule
    for rule in (
        *(ids, kernel, budget, counts, compared, outputs_present, errors, stderr, noise, machine),
        *(semicolons, headings, header, claims, figures, length, rhythm),
        *notebook_frame.RULES,
    )
}


def shows(code):
    """True where the cell certainly prints or shows: a print, display or plt.show outside of any
    function and branch."""
    try:
        statements = list(ast.parse(plain(code)).body)
    except SyntaxError:
        return False
    while statements:
        statement = statements.pop()
        if isinstance(statement, ast.For | ast.With):
            statements += statement.body
        call = statement.value if isinstance(statement, ast.Expr) else None
        if isinstance(call, ast.Call) and ast.unparse(call.func) in SHOWING:
            return True
    return False


def ends_with_semicolon(code):
    passed_over = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER)
    passed_over += (tokenize.INDENT, tokenize.DEDENT)
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(plain(code)).readline))
    except (tokenize.TokenError, SyntaxError):
        return code.rstrip().endswith(";")
    kept = [token.string for token in tokens if token.type not in passed_over]
    return bool(kept) and kept[-1] == ";"


def plain(code):
    """The cell as Python: magics and `!` lines become calls."""
    return TransformerManager().transform_cell(code)
