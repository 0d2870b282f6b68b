"""Training: it learns, it is a function of its seed, and it survives being killed."""

import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path

import pytest
import tiny
import torch
from test_objectives import MaskedLM, documents
from torch import nn

from mylib import masks, train
from mylib.checkpoints import FORMAT
from mylib.distributed import Asked, _dropout
from mylib.gazette import Gazette
from mylib.model import GPT, GPTConfig
from mylib.objectives import AbsorbingDiffusion, NextToken, PreviousToken, Rows
from mylib.train import draw, evaluate, fit, generator, schedule

TEXTS = documents([9, 4, 7, 2, 5, 8, 6])
TOOLS = Path(__file__).parent / "tools"


def fresh(seed=0, **sizes):
    config = GPTConfig(**{"vocab_size": 506, "n_positions": 16, "n_embd": 16, "n_layer": 1} | sizes)
    return GPT.init(config, torch.Generator().manual_seed(seed))


def trained(objective=None, texts=TEXTS, steps=4, model=None, **settings):
    """A model after a few steps, and its losses."""
    model = fresh() if model is None else model
    settings = {"batch": 4, "progress": False} | settings
    return model, fit(model, objective or NextToken(), texts, steps, **settings)


def same(one, two):
    return all(map(torch.equal, one.parameters(), two.parameters()))


# -- learning ----------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", [NextToken(), PreviousToken(), MaskedLM(0.4)], ids=repr)
def test_the_loss_falls(objective):
    model, history = trained(objective, TEXTS[:3], 80, batch=3, learning_rate=2e-2)
    assert history.steps == list(range(1, 81)) and not model.training
    assert abs(history.loss[0] - math.log(506)) < 0.3
    assert history.loss[-1] < 0.2 * history.loss[0]


def test_an_objective_without_a_leak_does_not_go_below_the_floor():
    gazette = Gazette.load()
    model, _ = trained(
        NextToken(masks.bidirectional),
        gazette,
        60,
        fresh(vocab_size=gazette.vocab_size, n_positions=32),
        batch=8,
        learning_rate=2e-2,
    )
    fresh_texts = gazette.sample(100, torch.Generator().manual_seed(9))
    leaking = evaluate(model, NextToken(masks.bidirectional), fresh_texts).mean()
    honest = evaluate(model, NextToken(), fresh_texts).mean()
    assert leaking < honest and honest > gazette.entropy


def test_the_same_seed_the_same_weights():
    (one, first), (two, second), (other, _) = (
        trained(seed=seed, model=fresh(dropout=0.2)) for seed in (1, 1, 2)
    )
    assert same(one, two) and first == second and not same(one, other)


def test_the_global_generator_is_neither_asked_nor_moved():
    one, two = fresh(dropout=0.2), fresh(dropout=0.2)
    for seed, model in enumerate((one, two)):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        trained(model=model)
        assert torch.equal(torch.get_rng_state(), state)
    assert same(one, two)


@pytest.mark.parametrize("objective", [NextToken(), PreviousToken()], ids=repr)
def test_slices_of_a_batch_change_nothing(objective):
    one, first = trained(objective, row=9, batch=7, model=fresh().double())
    for slices in (3, 5, 50):  # more slices than rows: some have nothing to do
        settings = dict(row=9, batch=7, accumulate=slices, model=fresh().double())
        two, second = trained(objective, **settings)
        for p, q in zip(one.parameters(), two.parameters(), strict=True):
            assert (p - q).abs().max() < 1e-6
        assert second.loss == pytest.approx(first.loss, abs=1e-5)


@dataclass(repr=False)
class OneARow(NextToken):
    mask: masks.Mask = masks.causal

    def rows(self, documents, length):
        return Rows.padded(documents, length)


def test_packed_and_padded_rows_give_the_same_loss():
    packed, first = trained(NextToken(), batch=7, row=16)
    padded, second = trained(OneARow(), batch=7, row=16)
    assert second.loss == pytest.approx(first.loss, abs=1e-5)
    for p, q in zip(packed.parameters(), padded.parameters(), strict=True):
        assert (p - q).abs().max() < 1e-5
    model = tiny.gpt(vocab_size=506)
    for objective in (NextToken(), PreviousToken()):
        totals = []
        for rows in (Rows.padded(TEXTS), Rows.packed(TEXTS, 16), Rows.packed(TEXTS, 41)):
            (batch,) = objective.passes(rows, None)
            logits = model(batch.inputs, batch.mask, batch.positions)
            totals.append(objective.loss(logits, batch).item())
        assert totals == pytest.approx(totals[:1] * 3, rel=1e-5)


def test_the_history_holds_the_loss_per_answer_before_the_update():
    model = fresh()
    texts = draw(TEXTS, 4, 0, 0)
    rows = Rows.packed(texts, 16)
    (batch,) = NextToken().passes(rows, None)
    wanted = NextToken().loss(model(batch.inputs, batch.mask, batch.positions), batch).item()
    _, history = trained(model=model, steps=1)
    assert history.loss == pytest.approx([wanted / sum(len(t) - 1 for t in texts)], rel=1e-5)


def test_it_is_the_plain_loop():
    model, history = trained(steps=3)
    plain, objective, losses = fresh(), NextToken(), []
    optimizers = train.make_optimizers(plain, 1e-2, 0.0)
    for step in range(3):
        (batch,) = objective.passes(Rows.packed(draw(TEXTS, 4, 0, step), 16), None)
        plain.zero_grad()  # each step follows its own gradient
        loss = objective.loss(plain.answers(batch), batch) / batch.denominator
        loss.backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = 1e-2 * schedule(step, 3, 0.05)
            optimizer.step()
        losses.append(loss.item())
    assert history.loss == pytest.approx(losses, rel=1e-5)
    for one, two in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, two)


def test_dropout_is_on_while_it_trains_and_off_afterwards():
    modes, model = [], fresh(dropout=0.2).eval()

    class Watched(NextToken):
        def loss(self, logits, batch):
            modes.append(model.training and model.h[0].attn.training)
            return super().loss(logits, batch)

    _, history = trained(Watched(), model=model, steps=2)
    assert modes == [True, True] and not model.training
    assert history.loss[0] != trained(steps=1, model=fresh())[1].loss[0]


def test_two_passes_are_added():
    class Twice(NextToken):
        def make(self, rows, generator):
            return (*self.passes(rows, generator), *self.passes(rows, generator))

    _, once = trained(steps=1)
    _, twice = trained(Twice(), steps=1)
    assert twice.loss[0] == pytest.approx(2 * once.loss[0], rel=1e-6)


def test_small_gradients_are_not_clipped_and_great_ones_are():
    @dataclass(repr=False)
    class Scaled(NextToken):
        factor: float = 1.0
        mask: masks.Mask = masks.causal

        def loss(self, logits, batch):
            return self.factor * super().loss(logits, batch)

    def moved(factor, clip):
        model, _ = trained(Scaled(factor), model=fresh(n_layer=0), steps=1, clip=clip)
        return (model.wte.weight - fresh(n_layer=0).wte.weight).norm().item()

    # AdamW's first step is sign-like: only its epsilon sees the size of a gradient.
    assert moved(1.0, 1e-9) < 0.5 * moved(1.0, 1.0)
    assert moved(1e4, 1.0) == pytest.approx(moved(1.0, 1.0), rel=0.05)


# -- schedule and documents --------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "warmup"), [(200, 0.05), (1000, 0.0), (100, 0.5), (300, 1.0)])
def test_the_schedule_rises_to_one_and_ends_near_zero(steps, warmup):
    rates = [schedule(step, steps, warmup) for step in range(steps)]
    top = max(range(steps), key=rates.__getitem__)
    assert rates[top] == 1 and top == max(1, round(warmup * steps)) - 1
    assert all(a < b for a, b in pairwise(rates[: top + 1]))
    assert all(a > b for a, b in pairwise(rates[top:]))
    assert rates[-1] > 0 and (rates[-1] <= 0.02 or warmup == 1)


@pytest.mark.parametrize("batch", [1, 3, 7, 20])
def test_every_epoch_visits_every_document_once(batch):
    texts = list(range(7))
    drawn = [one for step in range(21) for one in draw(texts, batch, 5, step)]
    epochs = [drawn[start : start + 7] for start in range(0, 21, 7)]
    assert all(sorted(epoch) == texts for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert draw(texts, batch, 5, 3) == draw(texts, batch, 5, 3)
    assert [draw(texts, 7, 5, 0)] != [draw(texts, 7, 6, 0)]


def test_a_source_is_asked_with_the_seed_and_step_alone():
    gazette = Gazette.load()
    once, again, later = (draw(gazette, 3, 5, step) for step in (2, 2, 3))
    assert all(map(torch.equal, once, again))
    assert [d.tolist() for d in once] != [d.tolist() for d in later]


def test_every_name_has_a_stream_of_its_own():
    """Not only a seed: torch's generator on the CPU heeds the low 32 bits of it alone."""
    dropout = [f"dropout{key}" for key in product(range(3), range(3))]
    purposes = ("documents", "noise", "epoch", *dropout)
    seeds, steps = (*range(12), 20, 21, 110), (0, 1, 7, 10, 11, 99, 100, 123, 1234, 12_345, 22_345)
    names = list(product(seeds, steps, purposes))
    streams = {tuple(torch.rand(2, generator=generator(*name)).tolist()) for name in names}
    assert len(streams) == len(names)


def test_two_seeds_share_no_document_and_no_noise():
    gazette, objective = Gazette.load(), AbsorbingDiffusion()
    for step in (0, 99, 100, 250, 5000):
        drawn = [draw(gazette, 4, seed, step) for seed in range(6)]
        assert len({str([text.tolist() for text in texts]) for texts in drawn}) == 6
        rows = Rows.padded(drawn[0])
        noise = [objective.make(rows, generator(seed, step, "noise"))[0] for seed in range(6)]
        assert len({str(batch.inputs.tolist()) for batch in noise}) == 6


def test_slices_and_passes_draw_their_own_dropout():
    net = Asked(fresh(dropout=0.5))

    def noise(*key):
        with _dropout(net, torch.device("cpu"), key):
            return torch.nn.functional.dropout(torch.ones(64), 0.5, True)

    keys = list(product((0, 1), (5, 6), range(2), range(3)))  # seed, step, pass, slice
    assert len({tuple(noise(*key).tolist()) for key in keys}) == len(keys)


def test_the_loss_of_a_float64_model_is_not_rounded():
    losses = []
    for slices in (1, 2):
        _, history = trained(
            AbsorbingDiffusion("each"),
            model=fresh().double(),
            steps=3,
            batch=7,
            accumulate=slices,
        )
        losses.append(history.loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(steps=0), "steps is at least 1, got 0"),
        (dict(batch=0), "batch is at least 1"),
        (dict(accumulate=0), "accumulate is at least 1"),
        (dict(texts=[]), "no documents to train on"),
        (dict(texts=[TEXTS[0][:0]]), "empty documents"),
        (dict(texts=[TEXTS[0][:1]]), "nothing is asked"),
        (dict(row=8), "document of 9 tokens does not fit rows of 8"),
        (dict(texts=[TEXTS[0] + 500]), r"ids lie in 0\.\.505"),
        (dict(texts=[torch.arange(6, 30)], row=30), "16 positions"),
    ],
)
def test_runs_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        trained(**arguments)


@dataclass(repr=False)
class Breaks(NextToken):
    """Its loss or its gradient is not a number from some step on."""

    what: str = "loss"
    at: int = 3
    mask: masks.Mask = masks.causal
    calls: tuple = ()

    def __repr__(self):
        return "Breaks()"

    def loss(self, logits, batch):
        self.calls = (*self.calls, 1)
        loss = super().loss(logits, batch)
        if len(self.calls) < self.at:
            return loss
        return loss * math.nan if self.what == "loss" else loss + (logits - logits).sum().sqrt()


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_nan_is_refused_and_nothing_is_saved(what, tmp_path):
    path = tmp_path / "run.safetensors"
    with pytest.raises(ValueError, match=f"the {what} is nan at step 1"):
        trained(Breaks(what, at=1), checkpoint=path, save_every=1)
    assert not list(tmp_path.iterdir())
    model = fresh()
    with pytest.raises(ValueError, match=f"the {what} is nan at step 3"):
        trained(Breaks(what), checkpoint=path, save_every=2, model=model)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    whole, _ = trained(Breaks("loss", at=99))
    resumed, history = trained(Breaks("loss", at=99), checkpoint=path, save_every=2)
    assert same(whole, resumed) and history.steps == [1, 2, 3, 4]


# -- checkpoints -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def half_done(tmp_path_factory):
    """A checkpoint of a run that died in its third step."""
    path = tmp_path_factory.mktemp("run") / "run.safetensors"
    with pytest.raises(ValueError, match="step 3"):
        trained(Breaks(), checkpoint=path, save_every=2)
    return path.read_bytes()


OTHER = {
    "batch": 5,
    "seed": 7,
    "learning_rate": 0.5,
    "warmup": 0.5,
    "weight_decay": 0.1,
    "clip": 0.5,
    "row": 12,
}


@pytest.mark.parametrize("name", OTHER)
def test_a_checkpoint_of_another_run_is_refused(name, half_done, tmp_path):
    path = tmp_path / "run.safetensors"
    path.write_bytes(half_done)
    model = fresh()
    message = f"another run: {name} was .*, now {OTHER[name]}"
    with pytest.raises(ValueError, match=message) as caught:
        trained(Breaks(at=99), checkpoint=path, model=model, **{name: OTHER[name]})
    assert str(path) in str(caught.value)
    assert same(model, fresh()) and path.read_bytes() == half_done


def test_so_is_one_of_another_model_objective_or_length(half_done, tmp_path, monkeypatch):
    path = tmp_path / "run.safetensors"
    path.write_bytes(half_done)
    with pytest.raises(ValueError, match=r"config was \{.*'n_layer': 1.*'n_layer': 2"):
        trained(Breaks(at=99), checkpoint=path, model=fresh(n_layer=2))
    with pytest.raises(ValueError, match=r"objective was Breaks\(\), now NextToken"):
        trained(NextToken(), checkpoint=path)
    with pytest.raises(ValueError, match="steps was 4, now 5"):
        trained(Breaks(at=99), checkpoint=path, steps=5)
    with monkeypatch.context() as patched:  # AdamW alone has other tensors than Muon
        patched.setattr(train, "is_sharded", lambda accelerator: True)
        with pytest.raises(ValueError, match="optimizers was Muon, AdamW, now AdamW"):
            trained(Breaks(at=99), checkpoint=path)
    resumed, _ = trained(Breaks(at=99), checkpoint=path, accumulate=2)  # this may change
    assert resumed is not None


def test_damaged_and_foreign_checkpoints_are_refused(half_done, tmp_path):
    import safetensors.torch

    tensors = safetensors.torch.load(half_done)
    fresh().save(tmp_path / "model.safetensors")
    header = {"format": FORMAT}
    for name, content in {
        "cut": half_done[:-10],
        "text": b"not a checkpoint",
        "model": (tmp_path / "model.safetensors").read_bytes(),
        "bare": safetensors.torch.save(tensors, header),
        "broken": safetensors.torch.save(tensors, header | {"run": "{"}),
        "listed": safetensors.torch.save(tensors, header | {"run": "[]"}),
        "half": safetensors.torch.save(tensors, header | {"run": '{"step": 1}'}),
    }.items():
        path = tmp_path / f"{name}.run"
        path.write_bytes(content)
        with pytest.raises(ValueError) as caught:
            trained(Breaks(at=99), checkpoint=path)
        assert str(path) in str(caught.value), name
        assert path.read_bytes() == content


def test_a_finished_run_is_not_run_again(tmp_path):
    path = tmp_path / "run.safetensors"
    one, first = trained(checkpoint=path)
    before = path.read_bytes()
    two, second = trained(checkpoint=path, model=fresh(seed=3))
    assert same(one, two) and first == second and path.read_bytes() == before


@pytest.fixture(scope="module")
def kills(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    path = os.pathsep.join([str(TOOLS), str(TOOLS.parents[1]), env.get("PYTHONPATH", "")])
    command = [sys.executable, str(TOOLS / "killed.py"), str(folder)]
    done = subprocess.run(
        command, env=env | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("case", ["packed", "dropout", "writing", "renaming"])
def test_killed_runs_end_with_the_same_weights(kills, case):
    unbroken, killed = (
        json.loads((kills / f"{case}.{kind}.json").read_text()) for kind in ("unbroken", "killed")
    )
    assert killed.pop("deaths") >= (3 if case in ("writing", "renaming") else 1)
    assert killed == unbroken  # weights bit for bit, and all losses
    assert unbroken["steps"] == list(range(1, 31))


# -- evaluation --------------------------------------------------------------------------------


def test_evaluate_sums_the_loss_of_each_document():
    model = tiny.gpt(vocab_size=506, dropout=0.5).train()
    for objective in (NextToken(), PreviousToken(), PreviousToken("start")):
        found = evaluate(model, objective, TEXTS, batch=3)
        assert found.shape == (7,) and model.training
        model.eval()
        for value, one in zip(found, TEXTS, strict=True):
            (batch,) = objective.passes(Rows.padded([one]), None)
            logits = model(batch.inputs, batch.mask, batch.positions)
            assert value.item() == pytest.approx(objective.loss(logits, batch).item(), rel=1e-4)
        (batch,) = objective.passes(Rows.padded(TEXTS), None)
        logits = model(batch.inputs, batch.mask, batch.positions)
        assert found.sum().item() == pytest.approx(objective.loss(logits, batch).item(), rel=1e-4)
        model.train()


def test_evaluate_counts_weights():
    class Half(NextToken):
        def passes(self, rows, generator):
            (batch,) = super().passes(rows, generator)
            return (replace(batch, weights=batch.weights / 2),)

    model = tiny.gpt(vocab_size=506)
    torch.testing.assert_close(
        2 * evaluate(model, Half(), TEXTS), evaluate(model, NextToken(), TEXTS)
    )


class OracleModel(nn.Module):
    """The oracle behind a GPT's methods."""

    def __init__(self, gazette):
        super().__init__()
        self.gazette, self.unused = gazette, nn.Parameter(torch.zeros(1))

    def hidden(self, ids, mask, positions):
        return self.gazette.causal(ids)

    def head(self, hidden):
        return hidden

    answers = GPT.answers


def test_evaluate_can_be_paired_with_the_oracle():
    gazette = Gazette.load()
    texts = gazette.sample(6, torch.Generator().manual_seed(3))
    found = evaluate(OracleModel(gazette), NextToken(), texts)
    exact = -gazette.log_prob(gazette.canvas(texts))
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-4)
