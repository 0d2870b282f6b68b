"""One test run is like another: environment, budget of each notebook, closing words.

`notebook_env` lies in tests/tools, which pyproject.toml puts on the path.
"""

import os
import subprocess
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import notebook_env
import pytest
from nbval.kernel import RunningKernel
from nbval.plugin import IPyNbCell

# Before any kernel starts and before anything imports torch.
notebook_env.enter()

# Doctests are wanted from mylib; these two are not test code.
collect_ignore = ["tests/offline", "tests/tools"]

DEFAULT_BUDGET = 90.0  # seconds; a chapter may ask for less in its metadata: mylib.budget_seconds

wall = defaultdict(float)  # notebook -> seconds of its cells so far, kernel start included


@dataclass
class Ran:
    """What the summary says of one notebook."""

    compared: int = 0  # code cells whose outputs were compared
    seconds: float | None = None  # what it took, once it has run to its end
    budget: float = DEFAULT_BUDGET

    def __str__(self):
        took = "not run to its end"
        if self.seconds is not None:
            took = f"{self.seconds:.1f} s of {self.budget:g} s"
        return f"{self.compared} code cells compared, {took}"


ran = defaultdict(Ran)  # by notebook, in the process that reports


def pytest_configure(config):
    # nbval looks for the file in the current folder; tests may be started from any.
    sanitize = config.getoption("nbval_sanitize_with")
    if sanitize and not Path(sanitize).is_absolute():
        config.option.nbval_sanitize_with = str(config.rootpath / sanitize)
    # Run cells as JupyterLab does, with history; nbval leaves it off, and then IPython ignores a
    # closing `;` and forgets `_` and `Out`.
    RunningKernel.execute_cell_input = lambda self, source, allow_stdin=None: self.kc.execute(
        source, allow_stdin=allow_stdin, stop_on_error=False
    )


def pytest_collection_finish(session):
    cells = [item for item in session.items if isinstance(item, IPyNbCell)]
    session.config.last_cells = set({cell.path: cell for cell in cells}.values())
    if cells:
        # The first import ever builds the font cache and says so on stderr: not in a chapter.
        import matplotlib.font_manager  # noqa: F401


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if isinstance(item, IPyNbCell):
        name = item.path.relative_to(item.config.rootpath).as_posix()
        wall[name] += call.duration
        if call.when == "call":
            report.user_properties.append(("notebook", [name, *took(item, report)]))
    return report


def took(item, report):
    """Was the cell compared; and at the last cell of a notebook its seconds and their budget."""
    # nbval compares nothing where the committed cell was never run (the guard refuses that).
    compared = report.passed and item.cell.execution_count is not None and item.options["check"]
    if item not in item.config.last_cells:
        return bool(compared), None, None
    name = item.path.relative_to(item.config.rootpath).as_posix()
    budget = item.parent.nb.metadata.get("mylib", {}).get("budget_seconds", DEFAULT_BUDGET)
    seconds = min(wall[name], kernel_seconds(item))
    if seconds > budget and report.passed:
        report.outcome = "failed"
        report.longrepr = f"{name} took {seconds:.1f} s, over its budget of {budget:g} s"
    return bool(compared), seconds, budget


def pytest_runtest_logreport(report):
    """In the one process that reports, whichever ran the cell (pytest -n)."""
    for key, value in report.user_properties:
        if key == "notebook":
            name, compared, seconds, budget = value
            ran[name].compared += compared
            if seconds is not None:
                ran[name].seconds, ran[name].budget = seconds, budget


def kernel_seconds(cell):
    """Processor seconds of the kernel and its children: a busy machine does not add to them."""
    import psutil

    try:
        times = psutil.Process(cell.parent.kernel.km.provisioner.pid).cpu_times()
    except (psutil.Error, AttributeError):
        return float("inf")
    return times.user + times.system + times.children_user + times.children_system


def pytest_terminal_summary(terminalreporter, config):
    if ran:
        terminalreporter.section("notebooks")
        for name in sorted(ran):
            terminalreporter.line(f"{name}: {ran[name]}")
        if getattr(config, "cache", None):  # -p no:cacheprovider: there is none
            seconds = {name: one.seconds for name, one in ran.items() if one.seconds is not None}
            config.cache.set("mylib/notebook_seconds", seconds)  # tools/chapter_table.py
    get = terminalreporter.getreports
    failed = " ".join(report.nodeid for report in [*get("failed"), *get("error")])
    for name in modified_notebooks(config.rootpath) if ".ipynb" in failed else []:
        if Path(name).name in failed:
            terminalreporter.line(
                f"{name} differs from the committed version (git status: modified), so its "
                "failures may be your own solutions, not a bug. `git stash` sets them aside, "
                "`git stash pop` brings them back; authors keep a change with `make notebooks`.",
                yellow=True,
            )


def modified_notebooks(root):
    """Committed notebooks with changes of the reader's own (none where there is no git)."""
    command = ["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"]
    try:
        out = subprocess.run(command, capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    names = [line[3:].strip('"') for line in out.splitlines()]
    return [name for name in names if name.endswith(".ipynb")]


@pytest.fixture
def real_data(monkeypatch):
    """The caller's MYLIB_CACHE, for one test on real files; the test is skipped without it."""
    folder = os.environ["MYLIB_TEST_CACHE"]
    if not folder:
        pytest.skip("MYLIB_CACHE is not set: no real data here")
    monkeypatch.setenv("MYLIB_CACHE", folder)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(Path(folder) / "tiktoken"))
    return Path(folder)
