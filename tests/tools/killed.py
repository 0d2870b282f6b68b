"""Runs of `fit` that are killed with SIGKILL and taken up again: python killed.py FOLDER

For each case the folder gets CASE.unbroken.json and CASE.killed.json, both with the weights' hash,
the losses and how often the run was killed. Every run is a forked child, so torch is loaded once.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import safetensors.torch
import tiny
import torch
import torch._dynamo  # the optimisers load it: once, before the children are made
from accelerate import Accelerator  # noqa: F401  for the same reason

import mylib.files
from mylib.gazette import Gazette
from mylib.objectives import NextToken
from mylib.train import fit

GAZETTE = Gazette.load()
CASES = {
    "packed": dict(row=64),
    "dropout": dict(dropout=0.3, accumulate=2, weight_decay=0.1),
    "writing": dict(save_every=1),
    "renaming": dict(save_every=1),
}
STEPS = 30


def train(result, checkpoint=None, dropout=0.0, **more):
    """One run from beginning to end, and what came out."""
    model = tiny.gpt(
        scale=0.02, vocab_size=GAZETTE.vocab_size, n_positions=32, n_layer=1, dropout=dropout
    )
    settings = {"save_every": 3} | more
    history = fit(
        model,
        NextToken(),
        GAZETTE,
        STEPS,
        batch=4,
        checkpoint=checkpoint,
        progress=False,
        **settings,
    )
    weights = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
    found = {"weights": hashlib.sha256(weights).hexdigest(), **vars(history)}
    result.write_text(json.dumps(found))


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def trap(case, turn):
    """Let this child die while it writes its checkpoint for the n-th time, or before the rename."""
    count = 0

    def save(tensors, path, header):
        nonlocal count
        count += 1
        whole = safetensors.torch.save(tensors, header)
        Path(path).write_bytes(whole[: len(whole) // 2] if count == turn else whole)
        if count == turn:
            die()

    def rename(*names):
        nonlocal count
        count += 1
        return die() if count == turn else os.rename(*names)

    if case == "writing":
        safetensors.torch.save_file = save
    if case == "renaming":
        mylib.files.os.replace = rename


def start(result, checkpoint, case, turn=None):
    """One run of a case in a fork of this process."""
    if pid := os.fork():
        return pid
    try:
        if turn is not None:
            trap(case, turn)
        train(result, checkpoint, **CASES[case])
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def ended(pid):
    """Wait; whether the child came to its end (else it was killed)."""
    status = os.waitpid(pid, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
        sys.exit("a child failed")
    return os.WIFEXITED(status)


def killed(case, folder, seconds, chance):
    """Run a case to its end through several deaths; return how many there were."""
    checkpoint, result = folder / f"{case}.safetensors", folder / f"{case}.killed.json"
    deaths = 0
    for turn in (3, 2, 4, None):
        pid = start(result, checkpoint, case, turn)
        if turn and case not in ("writing", "renaming"):
            time.sleep(seconds * chance.uniform(0.1, 0.6))
            os.kill(pid, signal.SIGKILL)
        deaths += not ended(pid)
        if checkpoint.exists():
            safetensors.torch.load_file(checkpoint)  # whole, whenever the run was killed
        if result.exists():
            return deaths


def main(folder):
    torch.set_num_threads(1)
    chance = random.Random()
    for case in CASES:
        began = time.perf_counter()
        if not ended(start(folder / f"{case}.unbroken.json", None, case)):
            sys.exit("the unbroken run was killed")
        deaths = killed(case, folder, time.perf_counter() - began, chance)
        path = folder / f"{case}.killed.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"deaths": deaths}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
