"""How samplers write: quality, diversity and passes of every order, on the Sunday edition.

    python -m mylib.experiments.samplers                       (an hour on one core)
    python -m mylib.experiments.samplers --part proofreader    (training and writing: see below)
    python -m mylib.experiments.samplers --part verses         (the same on Tiny Shakespeare)

``sunday``: the shipped ``causal``, ``diffusion`` and ``denoiser`` and the oracle write --n pages
each, from a blank canvas of 34 tokens. ``passes``: forward passes over the batch; ``row_passes``:
mean over pages of the passes that changed them. ``valid``: share that the grammar can write.
``diversity``: mean -log p of the valid pages by the oracle over the entropy, 1 for the grammar's
own. ``distinct``, ``fresh_distinct``: share of different pages, and of as many fresh ones.
``revisions``: words hidden again, per page. ``seconds`` are this machine's.

``proofreader``: what second thoughts are worth at equal passes, Evening edition, three networks
trained from different random weights on the note's objective and both reading directions (4,300
steps of 64 documents; --device cuda is quicker). Weights are kept in --folder and not trained
again. ``flag_precision``, ``flag_recall``: of its flags on 1,000 fresh documents.

``verses``: windows of 64 tokens, one network trained on absorbing diffusion and the note's
objective (1,200 steps of 32 windows). No grammar says what is right, so a causal network (2,500
steps) judges: ``judge``, its nats per token. That rewards repetition, so beside it stand
``distinct_tokens``, different tokens over tokens in a window, and ``repeated``, the share of token
pairs that stand a second time in their window. The row "text" is held-out Shakespeare.
``bound``: what the network's own bound charges for it, nats per token.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..commands.measures import flag_counts, precision_recall
from ..datasets import Stream, tiny_shakespeare
from ..evaluation import evaluate
from ..files import data_path, read_safetensors
from ..gazette import Gazette
from ..metrics import bootstrap
from ..model import FORMAT, GPT, GPTConfig
from ..objectives import AbsorbingDiffusion, Denoising, ForwardBackward, Mixed, NextToken, Objective
from ..quality import quality
from ..sampling import (
    REVISERS,
    Ancestral,
    Certain,
    EveryDraw,
    Passes,
    Trace,
    generate,
    write,
)
from ..tokenizer import BOS, MASK, load_tokenizer
from ..train import fit
from .results import Table, origin

KEY = ("order", "budget", "block", "revise", "top_p")
WINDOW = 64


@dataclass(frozen=True)
class Setting:
    """One way to write; the fields are `write`'s."""

    order: str
    budget: int | Callable = 1
    block: int | None = None
    revise: str = "none"
    top_p: float = 1.0

    @property
    def key(self) -> dict:
        name = type(self.budget).__name__ if isinstance(self.budget, EveryDraw) else self.budget
        return {
            **dict(order=self.order, budget=name, block=self.block or ""),
            **dict(revise=self.revise, top_p=self.top_p),
        }

    def write(self, model: GPT | Callable, canvas: Tensor, seed: int = 0) -> Trace:
        return write(
            model,
            canvas,
            self.order,
            self.budget,
            block=self.block,
            revise=REVISERS[self.revise],
            top_p=self.top_p,
            generator=torch.Generator().manual_seed(seed),
        )


def sunday_settings(gazette: Gazette) -> dict[str, list[Setting]]:
    """For each model the settings it is tried with, the most telling first."""
    S = Setting
    few = [S(order, Passes(n)) for n in (17, 8) for order in ("random", "confidence")]
    diffusion = [
        S("uncertain", Certain(0.98, 1), top_p=0.9),
        S("uncertain", Certain(0.995, 1), top_p=0.9),
        S("uncertain", Certain(0.98, 1)),
        *few,
        S("confidence"),
        S("random"),
        S("confidence", Certain(0.9)),
        *(S(order, Passes(8)) for order in ("entropy", "margin", "uncertain", "left")),
        S("confidence", Passes(4), block=8),
        S("random", Ancestral(17)),
    ]
    denoiser = [
        *(S("random", Passes(17), revise=r) for r in REVISERS),
        *(S("random", Passes(8), revise=r) for r in ("none", "flagged")),
        *(S("uncertain", Certain(0.98, 1), revise=r) for r in ("none", "flagged")),
        S("uncertain", Certain(0.995, 1), revise="flagged", top_p=0.9),
        S("confidence", Certain(0.9), revise="flagged", top_p=0.9),
    ]
    oracle = [
        S("uncertain", Certain(1.0, 1)),
        S("uncertain", EveryDraw(gazette)),
        *few,
        S("confidence", Certain(0.9)),
        S("confidence", Certain(0.98)),
        S("entropy", Certain(1.0, 1)),
    ]
    return {"diffusion": diffusion, "denoiser": denoiser, "oracle": oracle}


SPENT = ("n", "passes", "row_passes", "seconds")
JUDGED = (
    *SPENT,
    *("valid", "valid_low", "valid_high", "diversity", "diversity_low", "diversity_high"),
    *("distinct", "fresh_distinct", "revisions"),
)


def spent(trace: Trace, seconds: float) -> dict:
    """The columns `SPENT` of a written batch."""
    needed = round(float(trace.row_passes.double().mean()), 2)
    values = (len(trace.ids), trace.passes, needed, round(seconds, 1))
    return dict(zip(SPENT, values, strict=True))


def judged(gazette: Gazette, trace: Trace, seconds: float) -> dict:
    """The columns `JUDGED` of a written batch."""
    found, nats = quality(gazette, trace.ids), gazette.entropy
    spread = found.surprise or (float("nan"),) * 3
    values = (
        *spent(trace, seconds).values(),
        *(round(value, 4) for value in found.valid),
        *(round(value / nats, 4) for value in spread),
        round(found.distinct, 4),
        round(found.fresh_distinct, 4),
        round(float(trace.revisions.sum(1).double().mean()), 3),
    )
    return dict(zip(JUDGED, values, strict=True))


def timed(writing: Callable[[], Trace]) -> tuple[Trace, float]:
    start = time.perf_counter()
    trace = writing()
    return trace, time.perf_counter() - start


def sunday(options: argparse.Namespace, facts: dict) -> None:
    gazette = Gazette.load("small" if options.smoke else "sunday")
    table = Table(options.out / "samplers.csv", ("model", *KEY), JUDGED, {"n": options.n}, facts)
    canvas = torch.full((options.n, gazette.length), MASK)
    for name, settings in sunday_settings(gazette).items():
        if name not in options.models:
            continue
        model = gazette.denoiser if name == "oracle" else _shipped(name, gazette, options.smoke)
        for setting in settings[:3] if options.smoke else settings:
            if not table.has(model=name, **setting.key):
                trace, seconds = timed(lambda m=model, s=setting: s.write(m, canvas))
                table.add(model=name, **setting.key, **judged(gazette, trace, seconds))
    left = Setting("left")
    if "causal" in options.models and not table.has(model="causal", **left.key):
        model = _shipped("causal", gazette, options.smoke)
        chance, start = torch.Generator().manual_seed(0), torch.full((options.n, 1), BOS)
        trace, seconds = timed(lambda: generate(model, start, gazette.length, generator=chance))
        table.add(model="causal", **left.key, **judged(gazette, trace, seconds))


def proofreader(options: argparse.Namespace, facts: dict) -> None:
    gazette = Gazette.load()
    objective = Mixed(ForwardBackward(p_bw=1.0), Denoising())
    table = Table(
        options.out / "samplers_proofreader.csv",
        ("seed", *KEY),
        JUDGED,
        {"n": options.n, "steps": 2 if options.smoke else 4300, "batch": 64},
        facts,
    )
    canvas = torch.full((options.n, gazette.length), MASK)
    settings = [
        *(Setting("random", Passes(n), revise=r) for n in (8, 4, 16) for r in ("none", "flagged")),
        Setting("random", Passes(8), revise="low confidence"),
        *(Setting("confidence", Passes(8), revise=r) for r in ("none", "flagged")),
    ]
    for seed in options.seeds:
        name = f"proofreader-{seed}"
        steps = table.facts["settings"]["steps"]
        model = trained(name, options, objective, gazette, steps, batch=64, seed=seed)
        if f"flag_precision_{seed}" not in table.facts:
            fresh = gazette.sample(1000, torch.Generator().manual_seed(2**31))
            counts = flag_counts(model, gazette, fresh)
            both = zip(("precision", "recall"), precision_recall(counts), strict=True)
            _, header = read_safetensors(options.folder / f"{name}.safetensors", FORMAT)
            table.note(**{f"trained_on_{seed}": header["device"]})
            table.note(**{f"flag_{what}_{seed}": str(interval) for what, interval in both})
        for setting in settings[:3] if options.smoke else settings:
            if not table.has(seed=seed, **setting.key):
                trace, seconds = timed(lambda m=model, s=setting: s.write(m, canvas))
                table.add(seed=seed, **setting.key, **judged(gazette, trace, seconds))


VERSES = ("judge", "judge_low", "judge_high", "distinct_tokens", "repeated")


def verses(options: argparse.Namespace, facts: dict) -> None:
    text, held_out = Stream.of(tiny_shakespeare(), WINDOW).split(0.1)
    steps = (2, 2) if options.smoke else (2500, 1200)
    table = Table(
        options.out / "samplers_verses.csv",
        KEY,
        (*SPENT, *VERSES),
        {"n": options.n, "judge_steps": steps[0], "steps": steps[1], "batch": 32},
        facts,
    )
    tokens = load_tokenizer().n_vocab
    objective = Mixed(AbsorbingDiffusion(), Denoising(replacements=range(6, tokens)))
    judge = trained("shakespeare-judge", options, NextToken(), text, steps[0], batch=32)
    model = trained("shakespeare-denoiser", options, objective, text, steps[1], batch=32)
    windows = held_out.windows()[: options.n]
    if not table.has(order="text"):
        blank = dict.fromkeys((*KEY, "passes", "row_passes", "seconds"), "") | {"order": "text"}
        table.add(**blank, n=len(windows), **heard(judge, torch.stack(windows)))
    if "bound" not in table.facts:
        nats = evaluate(model, AbsorbingDiffusion(), windows, row=WINDOW) / WINDOW
        table.note(bound=str(bootstrap(nats.double())))
    canvas = torch.full((options.n, WINDOW), MASK)
    settings = [
        *(Setting("random", Passes(n), revise=r) for n in (8, 16) for r in ("none", "flagged")),
        Setting("confidence", Passes(8)),
    ]
    for setting in settings[:2] if options.smoke else settings:
        if not table.has(**setting.key):
            trace, seconds = timed(lambda s=setting: s.write(model, canvas))
            table.add(**setting.key, **spent(trace, seconds), **heard(judge, trace.ids))


def heard(judge: GPT, windows: Tensor) -> dict:
    """The columns `VERSES` of windows (N, T)."""
    nats = evaluate(judge, NextToken(), list(windows)) / (windows.shape[1] - 1)
    kinds = torch.tensor([len(row.unique()) / len(row) for row in windows], dtype=torch.float64)
    pairs = windows[:, :-1] * (int(windows.max()) + 1) + windows[:, 1:]
    again = torch.tensor([1 - len(row.unique()) / len(row) for row in pairs], dtype=torch.float64)
    values = (*bootstrap(nats.double()), float(kinds.mean()), float(again.mean()))
    return dict(zip(VERSES, (round(value, 4) for value in values), strict=True))


def trained(
    name: str, options, objective: Objective, documents, steps: int, batch: int, seed: int = 0
) -> GPT:
    """The network of this name in ``--folder``; trained and put there if it is not."""
    path = options.folder / f"{name}.safetensors"
    if path.exists():
        return GPT.load(path)
    sizes = dict(n_embd=16, n_layer=1, n_head=2) if options.smoke else {}
    config = GPTConfig(load_tokenizer().n_vocab, n_positions=WINDOW, **sizes)
    model = GPT.init(config, torch.Generator().manual_seed(seed)).to(options.device)
    unfinished = options.folder / f".{name}.run"
    row = documents.length  # a Gazette's canvas, a stream's window
    settings = dict(batch=batch, row=row, seed=seed, checkpoint=unfinished)
    fit(model, objective, documents, steps, **settings)
    model.cpu().save(path, device=torch.device(options.device).type)
    unfinished.unlink()
    return model


def _shipped(name: str, gazette: Gazette, smoke: bool) -> GPT:
    if not smoke:
        return GPT.load(data_path(f"checkpoints/{name}.safetensors"))
    config = GPTConfig(gazette.vocab_size, n_positions=64, n_embd=16, n_layer=1, n_head=2)
    return GPT.init(config, torch.Generator().manual_seed(0)).eval()


PARTS = {"sunday": sunday, "proofreader": proofreader, "verses": verses}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    results = data_path("gazette.toml").parent / "results"
    parser.add_argument("--part", choices=PARTS, default="sunday")
    parser.add_argument("--out", type=Path, default=results, help="folder of the tables")
    parser.add_argument("--folder", type=Path, default=Path("build/samplers"), help="of weights")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    every = ["causal", "diffusion", "denoiser", "oracle"]
    parser.add_argument("--models", nargs="+", default=every, choices=every)
    parser.add_argument("--device", default="cpu", help="where to train")
    parser.add_argument("--smoke", action="store_true", help="tiny models, few pages")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    if options.smoke:
        options.n, options.seeds = 4, [0]
    about = " ".join(__doc__.split("\n\n", 2)[2].split())
    PARTS[options.part](options, {**origin("samplers", argv), "about": about})


if __name__ == "__main__":
    main()
