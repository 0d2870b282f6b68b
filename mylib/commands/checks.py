"""The checks of ``python -m mylib doctor``.

Each is a function that yields ``(status, message)``, one pair for each line. It imports what it
needs by itself, so that a broken package is a line of the report and not its end.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..files import cache_dir, data_path

PROJECT = "one-mask-at-a-time"
OLDEST = (3, 11)
GIB = 2**30
MEMORY, DISK = 2 * GIB, 1 * GIB  # what should be free
WIDGETS = "@jupyter-widgets/jupyterlab-manager"
AGAIN = "run `make setup`, or `python -m pip install -e .`"
RESTORE = "get data/ again (`git restore data`, or install again)"

Lines = Iterator[tuple[str, str]]


def one_line(error: Exception) -> str:
    """What an error says, without line breaks."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


# -- Python and packages ---------------------------------------------------------------------------


def _python() -> Lines:
    ours = data_path("gazette.toml").parents[1] / ".venv"  # what `make setup` makes
    if ours.exists() and Path(sys.prefix).resolve() != ours.resolve():
        again = f"`{ours.name}/bin/python -m mylib doctor`"
        yield "WARN", f"this is {sys.prefix}; the course's own Python is in {ours.name}: {again}"
    version = ".".join(map(str, sys.version_info[:3]))
    if tuple(sys.version_info[:2]) >= OLDEST:
        yield "ok", version
    else:
        oldest = ".".join(map(str, OLDEST))
        yield "FAIL", f"{version} is too old: make the environment anew with {oldest} or newer"


def _packages() -> Lines:
    """One line for each package that is not as it should be, and one for all others."""
    from importlib.metadata import PackageNotFoundError, requires

    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(line) for line in requires(PROJECT) or []]
    except PackageNotFoundError:
        yield "FAIL", f"the course itself ({PROJECT}) is not installed: {AGAIN}"
        return
    fine = 0
    for requirement in wanted:
        marker = requirement.marker
        needed = marker is None or marker.evaluate({"extra": ""})
        if not needed and not marker.evaluate({"extra": "test"}):
            continue  # for another system
        problem = _problem(requirement)
        fine += problem is None
        if problem is not None:
            install = f'`python -m pip install "{requirement.name}{requirement.specifier}"`'
            use = "" if needed else " (only the tests need it)"
            yield "FAIL" if needed else "WARN", f"{problem}{use}: {install}"
    if fine:
        yield "ok", f"{fine} in the versions that the course asks for"


def _problem(requirement) -> str | None:
    """What is wrong with a package, None if nothing is."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return f"{requirement.name} is not installed"
    if requirement.specifier.contains(found, prereleases=True):
        return None
    return f"{requirement.name} is {found}, not {requirement.specifier}"


def _torch() -> Lines:
    """A known product, and attention under a mask whose first query sees itself alone."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    square = torch.arange(4.0).view(2, 2)
    if (square @ square).tolist() != [[2.0, 3.0], [6.0, 11.0]]:
        yield "FAIL", f"torch {torch.__version__} multiplies wrongly: {AGAIN}"
        return
    q = torch.linspace(-1, 1, 2 * 4 * 8).view(1, 2, 4, 8)
    visible = torch.ones(4, 4).tril().bool()
    out = scaled_dot_product_attention(q, q, q, attn_mask=visible)
    if not torch.isfinite(out).all() or not torch.allclose(out[:, :, 0], q[:, :, 0]):
        yield "FAIL", f"attention of torch {torch.__version__} gives wrong numbers: {AGAIN}"
        return
    yield "ok", "multiplies, and attends under a mask"


# -- data ------------------------------------------------------------------------------------------


def _gazette() -> Lines:
    from ..gazette import EDITIONS, Gazette

    for edition in EDITIONS:
        entropy = Gazette.load(edition).entropy
        if not (math.isfinite(entropy) and entropy > 0):
            yield "FAIL", f"the {edition} edition has an entropy of {entropy}: {RESTORE}"
            return
    yield "ok", f"{len(EDITIONS)} editions, their entropies are finite"


def _checkpoints() -> Lines:
    """Every shipped checkpoint loads and belongs to the grammar and the tokens that are there."""
    from .pretrain import RECIPES

    folder = data_path("gazette.toml").parent / "checkpoints"
    there = sorted(folder.glob("[!.]*.safetensors"))  # hidden ones are runs that go on
    for name in sorted(RECIPES.keys() - {path.stem for path in there}):
        yield "WARN", f"{name} is not there: `python -m mylib pretrain {name}` trains it"
    problems = [problem for path in there if (problem := _checkpoint_problem(path))]
    for problem in problems:
        yield "FAIL", f"{problem}: {RESTORE}"
    if fine := len(there) - len(problems):
        yield "ok", f"{fine} found, and made for the grammar that is there"


def _checkpoint_problem(path: Path) -> str | None:
    from ..files import read_safetensors
    from ..model import FORMAT, GPT
    from .pretrain import RECIPES, provenance

    try:
        GPT.load(path)
        _, header = read_safetensors(path, FORMAT)
    except (ValueError, OSError) as error:
        return one_line(error)
    if path.stem not in RECIPES:
        return None  # the learner's own
    wanted = provenance(RECIPES[path.stem])
    stale = [key for key in ("grammar", "ranks") if header.get(key) != wanted[key]]
    return f"{path.stem} was trained on other {' and '.join(stale)}" if stale else None


# -- Jupyter ---------------------------------------------------------------------------------------


def _kernel() -> Lines:
    """The kernel of the notebooks runs in this environment, not in another one."""
    from importlib.util import find_spec

    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    mend = f"run `{sys.executable} -m ipykernel install --sys-prefix --name python3`"
    if find_spec("ipykernel") is None:
        yield "FAIL", f"ipykernel is not installed: {AGAIN}"
        return
    try:
        spec = KernelSpecManager().get_kernel_spec("python3")
    except NoSuchKernel:
        yield "FAIL", f"Jupyter has no kernel `python3`: {mend}"
        return
    if _is_this_python(spec.argv[0]):
        yield "ok", "the kernel `python3` belongs to this environment"
        return
    yield (
        "FAIL",
        f"the kernel `python3` starts {spec.argv[0]}, not {sys.executable}: {mend}; "
        f"if that does not help, remove {spec.resource_dir}",
    )


def _is_this_python(program: str) -> bool:
    """Whether a kernel's program is the interpreter that runs now, of the same environment."""
    version = sys.version_info
    if program in ("python", f"python{version[0]}", f"python{version[0]}.{version[1]}"):
        return True  # Jupyter puts its own interpreter in the place of these
    found, this = Path(program), Path(sys.executable)
    # The programs of two environments are often links to one file: the folder tells them apart.
    return found.parent.resolve() == this.parent.resolve() and found.resolve() == this.resolve()


def _widgets() -> Lines:
    from jupyter_core.paths import jupyter_path

    for folder in map(Path, jupyter_path("labextensions")):
        path = folder / WIDGETS / "package.json"
        if path.is_file() and json.loads(path.read_text(encoding="utf-8"))["name"] == WIDGETS:
            yield "ok", "JupyterLab finds the extension of ipywidgets"
            return
    yield (
        "FAIL",
        f"JupyterLab does not find {WIDGETS}, so widgets stay blank: "
        "`python -m pip install --force-reinstall jupyterlab_widgets`",
    )


# -- the machine -----------------------------------------------------------------------------------


def _memory() -> Lines:
    import psutil

    free = psutil.virtual_memory().available
    enough = free >= MEMORY
    todo = "" if enough else f", less than {MEMORY / GIB:.0f}: close other programs"
    yield "ok" if enough else "WARN", f"{free / GIB:.1f} GiB free{todo}"


def _disk() -> Lines:
    free = shutil.disk_usage(_existing(cache_dir())).free
    enough = free >= DISK
    todo = "" if enough else f", less than {DISK / GIB:.0f}: make room, or set MYLIB_CACHE"
    yield "ok" if enough else "WARN", f"{free / GIB:.1f} GiB free for the cache{todo}"


def _cache() -> Lines:
    folder = cache_dir()
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)) as file:
            file.write(b"mylib")
    except OSError as error:
        reason = error.strerror or one_line(error)
        yield "FAIL", f"cannot write to {folder} ({reason}): set MYLIB_CACHE to a folder of yours"
    else:
        yield "ok", f"{folder} is writable"


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that exists: nothing is made to look."""
    return next(place for place in (folder, *folder.absolute().parents) if place.exists())


def _device() -> Lines:
    import torch

    device = "cpu"
    if torch.cuda.is_available():
        device = f"cuda ({torch.cuda.get_device_name()})"
    elif torch.backends.mps.is_available():
        device = "mps"
    threads = torch.get_num_threads()
    yield "ok", f"{device}, {threads} thread{'s' if threads != 1 else ''}"


CHECKS = {
    "python": _python,
    "packages": _packages,
    "torch": _torch,
    "gazette": _gazette,
    "checkpoints": _checkpoints,
    "kernel": _kernel,
    "widgets": _widgets,
    "memory": _memory,
    "disk": _disk,
    "cache": _cache,
    "device": _device,
}
