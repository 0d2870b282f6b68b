"""Two directions over one set of weights: what they cost, and what they are worth.

    python -m mylib.experiments.forward_backward                  (an hour and a half on one core)
    python -m mylib.experiments.forward_backward --sizes 8x128 --data fresh --device cuda

Source note 4 with the right backward mask, and with its published one. Evening edition. Every run
reads the same documents forward at every step; with probability ``p_bw`` it also reads them
backward: forward tokens are equal, and tokens in all are not. ``forward``, ``backward``: nats per
document above the floor on 1,000 fresh documents, with the interval over documents. ``data``: fresh
documents at every step, or so many, read over and over. ``best_forward``: after the step at which
300 other documents were read best. ``cut_...``: without the last 1, 2, ... layers, final norm and
head as they were; ``refit_...``: the same with norm and head fitted anew for 40 steps, for this
direction alone, layers frozen (right mask, fresh documents, p_bw 0, 0.1 and 1). ``probe``: share of
middle tokens whose direction a line tells, from layer 0 on.

Runs that are in the table are not made again: more sizes, seeds and values of p_bw only add rows.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..evaluation import evaluate_passes
from ..files import data_path
from ..gazette import Gazette
from ..layers import direction_probe
from ..masks import Mask, documents
from ..metrics import paired_excess
from ..model import GPT, GPTConfig
from ..objectives import Batch, ForwardBackward, Rows
from ..surgery import OwnHead, without_last
from ..train import draw, fit, generator
from .results import Table, origin

SIZES = ("2x32", "4x48", "6x64")
P_BW = (0.0, 0.05, 0.1, 0.5, 1.0)
FEW_P_BW = (0.0, 0.1, 1.0)
HELD_OUT, DEV = 2**31, 2**30
read = partial(evaluate_passes, batch=128)  # nats of each document, forward and backward
KEY = ("mask", "size", "p_bw", "told", "data", "seed")
VALUES = (
    *("forward", "forward_low", "forward_high", "backward", "backward_low", "backward_high"),
    *("best_step", "best_forward", "forward_tokens", "tokens"),
    *("cut_forward", "cut_backward", "refit_forward", "refit_backward", "probe"),
)


class Published(ForwardBackward):
    """`ForwardBackward` with the backward mask of the note's code: flipped along one axis.

    A token sees the reflections of what it should see, within each document of m inputs: key k
    where it should be m - 1 - k.
    """

    def passes(self, rows: Rows, generator: torch.Generator) -> tuple[Batch, Batch]:
        forward, backward = super().passes(rows, generator)
        return forward, replace(backward, mask=published(rows))


def published(rows: Rows) -> Mask:
    """The flipped mask within each document, for the inputs of a backward pass."""
    inside = rows.document[:, 1:].masked_fill(rows.document[:, 1:] != rows.document[:, :-1], -1)
    reflected = Mask(
        lambda b, h, q, k, place, left: place[b, k] <= left[b, q],
        *("reflected", rows.position[:, 1:] - 1, rows.from_end[:, 1:]),
    )
    return reflected & documents(inside)


OBJECTIVES = {"right": ForwardBackward, "published": Published}


class Run(NamedTuple):
    """One model: which backward mask, how large, how often backward, told which way, on what."""

    mask: str
    size: str
    p_bw: float
    told: bool
    data: str
    seed: int

    @property
    def objective(self) -> ForwardBackward:
        return OBJECTIVES[self.mask](self.p_bw, direction_tokens=self.told)

    @property
    def refitted(self) -> bool:
        """Whether heads are fitted anew: it takes as long as the training, so only where asked."""
        main = self.mask == "right" and self.data == "fresh" and self.told
        return main and self.p_bw in FEW_P_BW

    def config(self, vocab_size: int) -> GPTConfig:
        layers, width = map(int, self.size.split("x"))
        return GPTConfig(vocab_size, 64, width, layers, n_head=max(1, width // 16))


def runs(options: argparse.Namespace) -> list[Run]:
    """All runs asked for, one seed after another; without backward steps the masks are one."""
    found = []
    for seed, data, size, mask, p_bw in product(
        options.seeds, options.data, options.sizes, options.masks, options.p_bw
    ):
        if p_bw == 0 and mask != "right":
            continue
        if data != "fresh" and (mask != "right" or p_bw not in FEW_P_BW or size == "4x48"):
            continue
        found.append(Run(mask, size, p_bw, True, data, seed))
        if (mask, size, data) == ("right", "4x48", "fresh") and p_bw in (0.1, 1):
            found.append(Run(mask, size, p_bw, False, data, seed))
    return found


def measured(
    run: Run, gazette: Gazette, sizes: dict, held: list[Tensor], floor: Tensor, device: str
) -> dict:
    """Train one model and look at it from all sides."""
    config, objective = run.config(gazette.vocab_size), run.objective
    model = GPT.init(config, torch.Generator().manual_seed(run.seed)).to(device)
    dev = gazette.sample(sizes["dev"], torch.Generator().manual_seed(DEV))
    source = gazette
    if run.data != "fresh":
        source = gazette.sample(int(run.data), torch.Generator().manual_seed(1000 + run.seed))
    best: dict = {"nats": float("inf"), "step": 0, "model": {}}

    def look(step: int, model: GPT) -> None:
        if run.data == "fresh" or step % sizes["look"]:
            return
        nats = float(read(model, objective, dev)[0].mean())
        if nats < best["nats"]:
            state = {name: value.clone() for name, value in model.state_dict().items()}
            best.update(nats=nats, step=step, model=state)

    how = dict(batch=sizes["batch"], seed=run.seed, progress=False)
    fit(model, objective, source, sizes["steps"], on_step=look, **how)
    nats = read(model, objective, held)
    row: dict = {}
    for name, each in zip(("forward", "backward"), nats, strict=True):
        excess = paired_excess(each, floor)
        row |= {name: excess.mean, f"{name}_low": excess.low, f"{name}_high": excess.high}
    row["probe"] = direction_probe(model, objective, held, known=len(held) // 4)
    few = held[: sizes["few"]]
    for gone in range(1, config.n_layer):
        shorter = without_last(model, gone)
        cut = read(shorter, objective, few)
        for number, way in enumerate(("forward", "backward")):
            found = {"cut": cut[number]}
            if run.refitted:
                # A head for each direction: one that had to serve both would hide what is there.
                own = OwnHead(shorter).to(device)
                alone = OBJECTIVES[run.mask](float(number), direction_tokens=run.told, either=True)
                fit(own, alone, gazette, sizes["refit"], learning_rate=3e-3, **how)
                found["refit"] = read(own, objective, few)[number]
            for name, each in found.items():
                excess = float((each - floor[: len(few)]).mean())
                row.setdefault(f"{name}_{way}", []).append(excess)
    if run.data != "fresh" and best["model"]:
        model.load_state_dict(best["model"])
        row |= {
            "best_step": best["step"],
            "best_forward": float((read(model, objective, held)[0] - floor).mean()),
        }
    row["forward_tokens"], row["tokens"] = tokens_read(run, source, sizes["steps"], sizes["batch"])
    return {name: written(row.get(name, "")) for name in VALUES}


def tokens_read(run: Run, source, steps: int, batch: int) -> tuple[int, int]:
    """Answers asked in training: forward, and in both directions together."""
    ways = [0, 0]
    for step in range(steps):
        answers = sum(len(text) - 1 for text in draw(source, batch, run.seed, step))
        coin = torch.rand((), generator=generator(run.seed, step, "noise"))
        ways[0] += answers
        ways[1] += answers * bool(coin < run.p_bw)
    return ways[0], sum(ways)


def written(value) -> str:
    if isinstance(value, list):
        return " ".join(map(written, value))
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    results = data_path("gazette.toml").parent / "results"
    parser.add_argument("--out", type=Path, default=results / "forward_backward.csv")
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="layers x width")
    parser.add_argument("--p-bw", type=float, nargs="+", default=P_BW)
    parser.add_argument("--masks", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES))
    parser.add_argument("--data", nargs="+", default=["fresh", "1000", "4000"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--smoke", action="store_true", help="a tiny model, two steps")
    options = parser.parse_args(argv)
    from tqdm import tqdm

    torch.set_num_threads(1)
    sizes = dict(steps=400, batch=32, look=50, dev=300, held=1000, few=500, refit=40)
    if options.smoke:
        sizes = dict(steps=2, batch=4, look=1, dev=8, held=40, few=8, refit=1)
        options.sizes, options.seeds, options.data = ["2x16"], [0], ["fresh", "10"]
    gazette = Gazette.load()
    held = gazette.sample(sizes["held"], torch.Generator().manual_seed(HELD_OUT))
    floor = -gazette.log_prob(gazette.canvas(held))
    about = " ".join(" ".join(__doc__.split("\n\n")[2:]).split())
    facts = {**origin("forward_backward", argv), "about": about, "floor": gazette.entropy}
    table = Table(options.out, KEY, VALUES, sizes, facts)
    left = [run for run in runs(options) if not table.has(**run._asdict())]
    for run in tqdm(left, disable=None):
        row = measured(run, gazette, sizes, held, floor, options.device)
        table.add(**run._asdict(), **row)


if __name__ == "__main__":
    main()
