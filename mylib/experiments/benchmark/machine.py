"""What is measured of the machine, and in processes of their own: matmul peak, memory, imports."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from .peers import FASTEST_OF_EACH, load, loss_of
from .rounds import backward, fresh, quartiles, words
from .uses import filling

# What a line of code needs, in seconds of a new interpreter.
IMPORTS = {
    "import mylib": "import mylib",
    "mylib.model.GPT": "from mylib.model import GPT",
    "torch": "import torch",
    "transformers": "from transformers import GPT2LMHeadModel",
    "llms-from-scratch": "from llms_from_scratch.ch04 import GPTModel",
    "x-transformers": "from x_transformers import TransformerWrapper",
}
HEAVY = ("torch", "transformers", "matplotlib", "ipywidgets", "accelerate")


def matmul_peak(sizes: list[int], repeats: int) -> dict:
    """Operations a second of the best of ``repeats`` products of square float32 matrices."""
    found = {}
    for n in sizes:
        a, b = (torch.rand(n, n, generator=torch.Generator().manual_seed(i)) for i in range(2))
        best = min(seconds_of(lambda a=a, b=b: torch.mm(a, b)) for _ in range(repeats + 1))
        found[str(n)] = round(2 * n**3 / best / 1e9, 2)
    return {"gigaflops": max(found.values()), "by_size": found}


def seconds_of(step: Callable[[], object]) -> float:
    start = time.process_time()
    step()
    return time.process_time() - start


def imports(repeats: int, names: Sequence[str] = tuple(IMPORTS)) -> dict[str, dict]:
    """Processor milliseconds of an import in a new interpreter, and the heavy packages it loads."""
    seconds: dict[str, list[float]] = {}
    loaded = {}
    for _ in range(repeats):
        for name in names:
            code = (
                f"import sys, time; start = time.process_time(); {IMPORTS[name]}; "
                f"print(time.process_time() - start, *[m for m in {HEAVY} if m in sys.modules])"
            )
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
            if done.returncode:
                continue  # a peer that is not here
            first, *loaded[name] = done.stdout.split()
            seconds.setdefault(name, []).append(1000 * float(first))
    return {
        name: {"milliseconds": quartiles(each, 2), "loads": loaded[name]}
        for name, each in seconds.items()
    }


def memory(steps: dict[str, dict], repeats: int) -> dict[str, dict]:
    """Mebibytes that a step adds to its process at the most, over what it holds before.

    Each in a new process, whose model is there before: activations, logits and gradients of two
    steps in a row (forward, loss, backward). ``steps``: for each kind the shape it has.
    """
    found: dict[str, dict] = {}
    for kind, shape in steps.items():
        sizes = {k: v for k, v in shape.items() if k not in ("rows", "tokens")}
        names = ["ours", *load(fresh(sizes), FASTEST_OF_EACH)]
        if kind != "training step":
            names = ["ours", "all logits", *(["transformers"] if kind == "masked words" else [])]
        found[kind] = {
            name: quartiles([in_new_process(kind, name, shape) for _ in range(repeats)], 1)
            for name in names
        }
    return found


def in_new_process(kind: str, name: str, shape: dict) -> float:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(peak_of, kind, name, shape).result()


def peak_of(kind: str, name: str, shape: dict) -> float:
    """Mebibytes; to be called in a process that has done nothing before."""
    torch.set_num_threads(1)
    sizes = {k: v for k, v in shape.items() if k not in ("rows", "tokens")}
    if kind == "training step":
        ids = words(sizes, shape["rows"], shape["tokens"])
        ours = fresh(sizes)
        model = ours if name == "ours" else load(ours, [name])[name]
        step = backward(model, lambda: loss_of(model, ids))
    else:
        step = backward(*filling(name, kind, sizes, shape["rows"], shape["tokens"]))
    before = resident("VmRSS")
    step()
    step()
    return resident("VmHWM") - before


def resident(field: str) -> float:
    """Mebibytes of this process now (VmRSS) or at its peak (VmHWM).

    Linux hands ``ru_maxrss`` on to a process that is started, so that a small child would have its
    parent's peak; VmHWM begins anew. Where there is no /proc, ru_maxrss stands for both, and what a
    step adds is known only as far as it exceeds every peak before it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith(field))
        return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**2 if sys.platform == "darwin" else 1024)


def processor() -> str:
    """The processor's name, as far as the machine tells."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
