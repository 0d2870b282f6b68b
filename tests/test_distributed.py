"""Two processes are one: `fit` and the command under a real `accelerate launch`, gloo on a CPU."""

import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import accelerate
import launched
import pytest
import tiny
import torch
from safetensors.torch import load_file
from test_train import fresh, same, trained

from mylib import compiling, distributed, train
from mylib.__main__ import main
from mylib.distributed import accelerator_for, agree, update
from mylib.heads import TokenClassifier
from mylib.objectives import MaskedLM, NextToken

SCRIPT = Path(launched.__file__)
TEXT = "The cat sat on the mat, and the dog lay by the door. " * 60


def launch(*arguments):
    """`accelerate launch` with two processes on this machine."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    how = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"
    command = [sys.executable, "-m", "accelerate.commands.launch", *how.split()]
    command += ["--main_process_port", str(port), *map(str, arguments)]
    path = [str(SCRIPT.parent), str(SCRIPT.parents[2]), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path)}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    """The folder of everything that two processes did in one launch."""
    folder = tmp_path_factory.mktemp("launched")
    (folder / "text.txt").write_text(TEXT)
    done = launch(SCRIPT, folder)
    assert done.returncode == 0, done.stderr
    return folder


def found(group, case):
    """What the processes have to say about a case: the same."""
    one, two = (json.loads((group / f"{case}.{rank}.json").read_text()) for rank in (0, 1))
    one.pop("seconds", None), two.pop("seconds", None)
    assert one == two
    return one


# -- two are one -------------------------------------------------------------------------------


@pytest.mark.parametrize("case", launched.CASES)
def test_two_processes_have_the_losses_of_one(case, group):
    two, one = found(group, case), launched.in_one_process(case)
    assert len(two["loss"]) == launched.CASES[case][1].get("steps", 50)
    assert min(two["loss"]) < two["loss"][0] - 0.2
    worst = max(abs(a - b) for a, b in zip(one["loss"], two["loss"], strict=True))
    assert worst <= 1e-5, worst


def test_a_killed_group_ends_where_an_unbroken_one_does(group):
    assert 3 <= int((group / "found").read_text()) < 30  # it went on from a checkpoint
    assert found(group, "killed") == found(group, "unbroken")  # losses and weights, bit for bit


def test_sharded_weights_are_trained_alike(group, monkeypatch):
    two = found(group, "sharded")
    assert found(group, "sharded, resumed") == two
    monkeypatch.setattr(train, "make_optimizers", train._adamw_alone)
    one = launched.run(*launched.SHARDED)
    assert two["loss"] == pytest.approx(one["loss"], abs=1e-5)
    assert two["weights"] == pytest.approx(one["weights"], abs=1e-3)


def test_the_command_prints_and_writes_in_one_process_only(group, tmp_path, capsys):
    names = ["--out", str(tmp_path / "one.safetensors")]
    assert main(["train", "--text", str(group / "text.txt"), *launched.COMMAND, *names]) == 0
    lines = capsys.readouterr().out.replace(str(tmp_path / "one"), str(group / "model"))
    lines = lines.replace("830 kinds\n", "830 kinds, 2 processes\n")
    assert (group / "out.0").read_text() == lines and len(lines.splitlines()) == 4
    assert (group / "out.1").read_text() == "" and "step" not in (group / "err.1").read_text()
    assert (group / "written").read_text().splitlines() == ["0 run", "0 run", "0 model.safetensors"]
    one, two = load_file(tmp_path / "one.safetensors"), load_file(group / "model.safetensors")
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=0, atol=1e-5)


# -- what is refused ---------------------------------------------------------------------------


class Pretended:
    """Some of an Accelerator."""

    scaler, num_processes, is_fsdp2, distributed_type = None, 1, True, "NO"
    mixed_precision = "no"
    device, state = torch.device("cpu"), "one process"

    def __init__(self, **changes):
        vars(self).update(changes)


def pretend(monkeypatch, **changes):
    monkeypatch.setattr(accelerate, "Accelerator", lambda **_: Pretended(**changes))


def test_processes_that_do_not_find_each_other(monkeypatch):
    pretend(monkeypatch)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="2 processes were launched, Accelerate sees one process"):
        accelerator_for(fresh(), None)


def test_the_first_fsdp_is_refused(monkeypatch):
    pretend(monkeypatch, distributed_type=accelerate.DistributedType.FSDP, is_fsdp2=False)
    with pytest.raises(ValueError, match="fsdp_version: 2"):
        accelerator_for(fresh(), None)


def test_nobody_looks_at_a_sharded_model(monkeypatch):
    pretended = Pretended(distributed_type="FSDP", is_main_process=True)
    monkeypatch.setattr(train, "accelerator_for", lambda *_: pretended)
    with pytest.raises(ValueError, match="on_step would see none of the training under FSDP"):
        trained(on_step=print)


def test_checkpoints_that_not_all_machines_see():
    with pytest.raises(ValueError, match=r"different checkpoints, of steps \[0, 40\]"):
        agree(Pretended(gather=lambda tensor: torch.tensor([0, 40])), 40)
    agree(Pretended(gather=lambda tensor: torch.tensor([40, 40])), 40)


@pytest.mark.parametrize(
    ("launched", "forced", "found", "cpu"),
    [
        (False, "", "cuda", True),  # the model is on the CPU, and nobody hands out a device
        (True, "", None, True),
        (True, "", "mps", True),
        (True, "", "cuda", False),
        (True, "true", "cuda", True),
    ],
)
def test_where_a_process_trains(launched, forced, found, cpu, monkeypatch):
    device = None if found is None else torch.device(found)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: device)
    monkeypatch.setenv("ACCELERATE_USE_CPU", forced)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if launched:
        monkeypatch.setenv("LOCAL_RANK", "0")
    assert distributed._on_cpu(fresh()) is cpu


def test_a_model_evaluates_again_after_a_refusal():
    model = fresh()
    with pytest.raises(ValueError, match="does not fit"):
        trained(model=model, row=8)
    assert not model.training


def test_a_finished_run_may_not_be_cut_otherwise_where_there_is_dropout(tmp_path):
    path = tmp_path / "run"
    trained(model=fresh(dropout=0.2), checkpoint=path)
    with pytest.raises(ValueError, match="slices was 1, now 2"):
        trained(model=fresh(dropout=0.2), checkpoint=path, accumulate=2)


# -- precision ---------------------------------------------------------------------------------


def test_one_process_may_train_in_several_precisions(monkeypatch):
    plain, exact = trained(precision="no")
    _, rough = trained(precision="bf16")
    again, _ = trained()
    assert same(plain, again) and plain.wte.weight.dtype == torch.float32
    assert rough.loss != exact.loss and rough.loss == pytest.approx(exact.loss, abs=0.05)
    with pytest.raises(ValueError, match="fp16 is for GPUs; a CPU has bf16"):
        trained(precision="fp16")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")  # as the launcher says it
    assert trained()[1].loss == rough.loss and trained(precision="no")[1].loss == exact.loss


def stepped(scale, gradients):
    """Two weights and their optimisers, after one update of scaled gradients."""
    weights = [torch.nn.Parameter(torch.ones(1)) for _ in gradients]
    optimizers = [torch.optim.SGD([w], lr=0.1) for w in weights]
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    scaler.scale(sum((g * w).sum() for g, w in zip(gradients, weights, strict=True))).backward()
    for optimizer in optimizers:
        scaler.unscale_(optimizer)
    norm = math.hypot(*(float(w.grad) for w in weights))
    update(SimpleNamespace(scaler=scaler), optimizers, norm)
    return [float(w.detach()) for w in weights], scaler.get_scale()


def test_a_gradient_scaler_serves_both_optimisers():
    assert stepped(1024.0, [2.0, 3.0]) == (pytest.approx([0.8, 0.7]), 1024.0)
    # One gradient overflows: neither steps, and the scale falls.
    assert stepped(1024.0, [2.0, math.inf]) == ([1.0, 1.0], 512.0)


# -- torch.compile -----------------------------------------------------------------------------


def test_compiled_blocks_give_the_same_losses(monkeypatch, tmp_path):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(compiling, "BACKEND", backend)
    plain, wanted = trained(MaskedLM(0.3), model=fresh(n_layer=2), checkpoint=tmp_path / "plain")
    model, history = trained(
        MaskedLM(0.3), model=fresh(n_layer=2), checkpoint=tmp_path / "compiled", compile=True
    )
    assert graphs and history.loss == pytest.approx(wanted.loss, abs=1e-6)
    assert all(block._compiled_call_impl is None for block in model.h)
    names = [load_file(tmp_path / name).keys() for name in ("plain", "compiled")]
    assert names[0] == names[1] and model.state_dict().keys() == plain.state_dict().keys()


def test_what_cannot_be_compiled_is_said(monkeypatch):
    def backend(graph, inputs):
        raise RuntimeError("no C++ compiler here")

    monkeypatch.setattr(compiling, "BACKEND", backend)
    model = fresh()
    with pytest.raises(ValueError, match=r"cannot compile this model here: .*no C\+\+ compiler"):
        trained(model=model, compile=True)
    assert model.h[0]._compiled_call_impl is None
    monkeypatch.setattr(compiling, "BACKEND", lambda graph, inputs: graph.forward)
    monkeypatch.setattr(compiling, "LIMIT", 1)
    with pytest.raises(ValueError, match="cannot compile"):  # rows of another kind at every step
        trained(MaskedLM(), model=fresh(n_layer=1, n_embd=8, dropout=0.1), compile=True)
        trained(NextToken(), model=fresh(n_layer=1, n_embd=8), compile=True)
    with pytest.raises(ValueError, match="for models with GPT blocks; GPT has none"):
        trained(model=fresh(n_layer=0), compile=True)


def test_a_head_is_compiled_with_its_base(monkeypatch):
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    head = TokenClassifier(tiny.gpt(n_layer=2), ["O", "B"], torch.Generator())
    with compiling.compiled(head):
        assert all(block._compiled_call_impl is not None for block in head.base.h)
    assert head.base.h[0]._compiled_call_impl is None
