"""Execute notebooks in place and keep only what is the same on every run: `make notebooks`.

    python tests/tools/execute.py [notebook ...]      (default: all of notebooks/)

A notebook whose cell fails keeps its old text, and so does one whose run is killed. A second run
changes nothing.
"""

import subprocess
import sys
import time
from pathlib import Path

import nbformat
import notebook_env
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from notebook_cells import caption
from notebook_guard import WIDGET

from mylib.files import replacing, sweep

CELL_NOISE = ("execution", "ExecuteTime", "collapsed", "scrolled", "trusted")
NOTEBOOK_KEYS = ("mylib", "title", "authors")  # our own metadata; the rest is written here
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


def main(arguments: list[str]) -> int:
    paths = [Path(argument).resolve() for argument in arguments] or notebook_env.notebooks()
    if missing := [str(path) for path in paths if not path.is_file()]:
        print(f"no such notebook: {', '.join(missing)}", file=sys.stderr)
        return 2
    if not paths:
        print("no notebook in notebooks/ yet")
    notebook_env.enter()
    import matplotlib.font_manager  # noqa: F401  its first import speaks on stderr: not in a chapter

    return max((execute(path) for path in paths), default=0)


def execute(path: Path) -> int:
    """Run one notebook and write it back if anything changed; 1 if a cell fails."""
    sweep(path)  # parts of a run that was killed while it wrote
    before = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(before, as_version=4)
    start = time.perf_counter()
    try:
        run(notebook, path.parent)
    except (CellExecutionError, DeadKernelError, TimeoutError) as error:
        print(f"{path.name}: FAILED, left as it was\n{error}", file=sys.stderr)
        return 1
    tidy(notebook)
    after = nbformat.writes(notebook) + "\n"
    if after != before:
        with replacing(path) as aside:
            aside.write_text(after, encoding="utf-8")
    change = "unchanged" if after == before else "written"
    print(f"{path.name}: {change}, {time.perf_counter() - start:.1f} s", flush=True)
    return 0


def run(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Fill in the outputs, in a fresh kernel that stands in `folder`."""
    NotebookClient(
        notebook,
        kernel_name=KERNEL["name"],
        timeout=180,
        record_timing=False,
        coalesce_streams=True,  # else a print may be cut in two at a random place
        resources={"metadata": {"path": str(folder)}},
    ).execute(stderr=subprocess.DEVNULL)  # the kernel's own log; a cell's stderr is an output


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Drop what differs from run to run, and give figures their text for those who cannot see."""
    kept = {key: notebook.metadata[key] for key in NOTEBOOK_KEYS if key in notebook.metadata}
    notebook.metadata = nbformat.from_dict(
        {**kept, "kernelspec": KERNEL, "language_info": {"name": "python"}}
    )
    for cell, after in zip(notebook.cells, [*notebook.cells[1:], None], strict=True):
        for key in CELL_NOISE:
            cell.metadata.pop(key, None)
        if cell.cell_type != "code":
            continue
        for output in cell.outputs:
            # Model ids are random and dead without their kernel. The short text form stays.
            output.get("data", {}).pop(WIDGET, None)
        if any("image/png" in output.get("data", {}) for output in cell.outputs):
            describe(cell, after)


def describe(cell: nbformat.NotebookNode, after: nbformat.NotebookNode | None) -> None:
    """The "What you see" sentence under a figure is its alt text too (read by the book)."""
    if alt := caption(after.source if after is not None else ""):
        cell.metadata.setdefault("mystnb", {}).setdefault("image", {})["alt"] = alt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
