"""Runs of `fit` in a launched group: launched.py FOLDER, and in one process to compare.

    accelerate launch --multi_gpu --num_processes 2 tests/tools/launched.py FOLDER

Each process writes CASE.RANK.json: losses, and a sum for each of the final weights. Every run is a
forked child, so torch is loaded once for each process; one run is killed with SIGKILL in all
processes at once and taken up again.
"""

import contextlib
import itertools
import json
import os
import random
import signal
import socket
import sys
import time
from pathlib import Path

import accelerate
import tiny
import torch
import torch._dynamo  # the optimisers load it: once, before the children are made
from killed import ended

import mylib.files
from mylib import train
from mylib.__main__ import main as command
from mylib.checkpoints import FORMAT
from mylib.files import read_safetensors
from mylib.gazette import Gazette
from mylib.objectives import AbsorbingDiffusion, ForwardBackward, MaskedLM, NextToken

GAZETTE = Gazette.load()
STEPS = 50
WORLD, RANK = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
# With two processes; one has the same settings, and twice the slices where there is dropout.
CASES = {
    "next": (NextToken(), dict(batch=5, row=64)),  # packed: rows of unequal number
    "both": (ForwardBackward(), dict(batch=9, accumulate=2)),
    "masked": (MaskedLM(0.3), dict(batch=6)),
    "diffusion": (AbsorbingDiffusion(average="token"), dict(batch=5, row=32)),
    "idle": (MaskedLM(0.3), dict(batch=1, steps=15)),  # the other process has no row
    "dropout": (NextToken(), dict(batch=6, row=32, dropout=0.3, steps=25)),
}
KILLED = (ForwardBackward(), dict(batch=6, weight_decay=0.1, steps=30))
SHARDED = (ForwardBackward(), dict(batch=5, steps=6))
NUMBERS = itertools.count()
SIZES = {
    "--steps": 3,
    "--window": 16,
    "--layers": 1,
    "--width": 16,
    "--batch": 5,
    "--save-every": 2,
}
COMMAND = [str(word) for pair in SIZES.items() for word in pair]


def run(objective, settings, **more):
    """The losses of a run, and a sum for each of its weights."""
    settings = {"steps": STEPS, **settings, **more}
    sizes = dict(vocab_size=GAZETTE.vocab_size, n_positions=64, n_layer=1)
    net = tiny.gpt(scale=0.02, dropout=settings.pop("dropout", 0.0), **sizes)
    history = train.fit(net, objective, GAZETTE, settings.pop("steps"), progress=False, **settings)
    sums = [float(p.detach().double().sum()) for p in net.parameters()]
    return {"loss": history.loss, "weights": sums}


def in_one_process(case):
    slices = {"accumulate": 2} if case == "dropout" else {}
    return run(*CASES[case], **slices)


def keep(folder, case, found):
    (folder / f"{case}.{RANK}.json").write_text(json.dumps(found))


def equal_cases(folder):
    for case in CASES:
        keep(folder, case, run(*CASES[case]))
    began = time.perf_counter()
    found = run(*KILLED)
    keep(folder, "unbroken", found | {"seconds": time.perf_counter() - began})


def from_the_shell(folder):
    """`python -m mylib train`, with all it prints and all it writes."""
    rename = os.replace

    def told(aside, path):
        with open(folder / "written", "a") as file:
            file.write(f"{RANK} {Path(path).name}\n")
        rename(aside, path)

    mylib.files.os.replace = told
    names = ["--out", str(folder / "model.safetensors"), "--checkpoint", str(folder / "run")]
    with (
        open(folder / f"out.{RANK}", "w") as out,
        open(folder / f"err.{RANK}", "w") as err,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = command(["train", "--text", str(folder / "text.txt"), *COMMAND, *names])
    assert code == 0, (folder / f"err.{RANK}").read_text()


class Unplugged(Exception):
    pass


def sharded(folder):
    """FSDP: Accelerate has it for GPUs only, the sharding itself works on a CPU."""
    ordinary, save = train.accelerator_for, train.save_run

    def pretending(model, precision):
        accelerator = ordinary(model, precision)
        accelerator.state.fsdp_plugin = accelerate.FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="transformer_based_wrap",
            transformer_cls_names_to_wrap=["Block"],
            cpu_ram_efficient_loading=False,
        )
        accelerator.state.distributed_type = accelerate.DistributedType.FSDP
        return accelerator

    def dying(*arguments, **more):
        save(*arguments, **more)
        torch.distributed.barrier()  # the file is there for all
        raise Unplugged

    train.accelerator_for = pretending
    keep(folder, "sharded", run(*SHARDED))
    path = folder / "sharded.safetensors"
    train.save_run = dying
    with contextlib.suppress(Unplugged):
        run(*SHARDED, checkpoint=path, save_every=4)
    train.save_run = save
    keep(folder, "sharded, resumed", run(*SHARDED, checkpoint=path, save_every=4))


def resumable(folder):
    keep(folder, "killed", run(*KILLED, checkpoint=folder / "killed.safetensors", save_every=3))


def together(folder, name):
    """Wait until every parent has got so far."""
    (folder / f"{name}.{RANK}.here").touch()
    while not all((folder / f"{name}.{rank}.here").exists() for rank in range(WORLD)):
        time.sleep(0.01)


def start(action, folder):
    """The action in a fork of this process; the forks meet at a port of their own."""
    number = next(NUMBERS)
    if RANK == 0:
        with socket.create_server(("127.0.0.1", 0)) as server:
            (folder / f"port.{number}").write_text(str(server.getsockname()[1]))
    together(folder, number)
    if pid := os.fork():
        (folder / f"pid.{RANK}").write_text(str(pid))
        return pid
    try:
        os.environ["MASTER_PORT"] = (folder / f"port.{number}").read_text()
        # The launcher's own store remembers the group before.
        os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"
        action(folder)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def kill_all(folder, seconds):
    """Some time after the first checkpoint, every process of the group, and only one says so."""
    path = folder / "killed.safetensors"
    while not path.exists():
        time.sleep(0.01)
    time.sleep(seconds * random.uniform(0.0, 0.4))
    for rank in range(WORLD):
        os.kill(int((folder / f"pid.{rank}").read_text()), signal.SIGKILL)
    _, header = read_safetensors(path, FORMAT)
    (folder / "found").write_text(str(json.loads(header["run"])["step"]))


def main(folder):
    torch.set_num_threads(1)
    for action in (equal_cases, from_the_shell, sharded):
        ended(start(action, folder))
    pid = start(resumable, folder)
    together(folder, "pids")
    if RANK == 0:
        seconds = json.loads((folder / "unbroken.0.json").read_text())["seconds"]
        kill_all(folder, seconds)
    if ended(pid):
        sys.exit("the run was over before it was killed")
    ended(start(resumable, folder))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
