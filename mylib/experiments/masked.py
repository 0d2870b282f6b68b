"""Hidden words: what a causal start is worth, and what the right side is worth on real text.

    python -m mylib.experiments.masked          (about an hour on one core)

Part "start" (the Gazette, Sunday edition): a network of the shipped size learns to name hidden
words under an open mask, from random weights ("scratch") or from the shipped causal model
("causal"), asked where the word stood ("same") or one place before ("next"). At each step: nats per
hidden word beyond the oracle, on fresh documents, all hidden words shown as [MASK].

Part "sides" (Tiny Shakespeare, the Gazette's tokens): a network of half the depth from random
weights, under an open mask ("both") or a causal one ("left"), asked at the same hidden tokens of
the last tenth of the text: nats per hidden token.

Intervals are bootstrap intervals over documents or windows.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..datasets import Stream, tiny_shakespeare
from ..files import data_path
from ..floors import answer_counts, excess_per_answer
from ..gazette import Gazette
from ..masks import bidirectional, causal
from ..metrics import Interval
from ..model import GPT, GPTConfig
from ..objectives import MaskedLM, NextMasked
from ..tokenizer import FIRST_WORD, load_tokenizer
from ..train import fit
from .results import Table, origin, rounded

SAME_OR_NEXT = {"same": MaskedLM, "next": NextMasked}
SIDES = {"both": bidirectional, "left": causal}
ALL_MASKED = (1.0, 0.0, 0.0)


def per_word(
    model: GPT, objective: MaskedLM, texts: list[Tensor], gazette: Gazette | None = None
) -> dict[str, float]:
    """Nats per hidden word, beyond the oracle's if there is one; always the same words."""
    counts = answer_counts(model, objective, texts, torch.Generator().manual_seed(7), gazette)
    return rounded(excess_per_answer(counts))


def start(table: Table, options: argparse.Namespace) -> None:
    gazette = Gazette.load("sunday")
    fresh = gazette.sample(options.documents, torch.Generator().manual_seed(2**31))
    before = data_path("checkpoints/causal.safetensors")
    keys = itertools.product(options.seeds, options.rates, SAME_OR_NEXT, ("scratch", "causal"))
    for seed, rate, asked, begin in keys:
        key = dict(seed=seed, rate=rate, asked=asked, begin=begin)
        model, kind = GPT.load(before), SAME_OR_NEXT[asked]
        if begin == "scratch":
            model = GPT.init(model.config, torch.Generator().manual_seed(seed))
        judge = kind(split=ALL_MASKED)
        train(table, key, model, kind(), gazette, judge, fresh, gazette, options.steps, 64)


def sides(table: Table, options: argparse.Namespace) -> None:
    words = range(FIRST_WORD, load_tokenizer().n_vocab)
    config = GPTConfig(load_tokenizer().n_vocab, n_positions=64, **options.sizes)
    trained, held_out = Stream.of(tiny_shakespeare(), 64).split(0.1)
    windows = held_out.windows()[: options.documents]
    for seed, (side, mask) in itertools.product(options.seeds, SIDES.items()):
        key = dict(seed=seed, rate=options.rates[0], asked="same", begin=side)
        model = GPT.init(config, torch.Generator().manual_seed(seed))
        objective = MaskedLM(replacements=words, mask=mask)
        judge = MaskedLM(replacements=words, mask=mask, split=ALL_MASKED)
        train(table, key, model, objective, trained, judge, windows, None, options.long, 32)


def train(table, key, model, objective, source, judge, texts, gazette, steps, batch) -> None:
    """Train, and add a row to the table at each of ``steps``."""
    if table.has(**key, step=steps[-1]):
        return

    def look(step: int, model: GPT) -> None:
        if step in steps:
            table.add(**key, step=step, **per_word(model, judge, texts, gazette))

    how = dict(batch=batch, learning_rate=key["rate"], seed=key["seed"], progress=False)
    fit(model, objective, source, steps[-1], on_step=look, **how)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    results = data_path("gazette.toml").parent / "results"
    parser.add_argument("--out", type=Path, default=results, help="folder: masked_PART.csv")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-2])
    parser.add_argument("--steps", type=int, nargs="+", default=[25, 50, 100, 200])
    parser.add_argument("--long", type=int, nargs="+", default=[200, 400, 800, 1600], help="sides")
    parser.add_argument("--documents", type=int, default=1000, help="fresh documents or windows")
    parser.add_argument("--smoke", action="store_true", help="few steps, few documents, one seed")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    options.sizes = dict(n_embd=128, n_layer=2, n_head=4)
    if options.smoke:
        options.sizes = dict(n_embd=16, n_layer=1, n_head=2)
        options.steps, options.long = [1, 2], [1, 2]
        options.documents, options.seeds, options.rates = 20, [0], [1e-2]
    about = " ".join(__doc__.split("\n\n", 2)[-1].split())
    for part in options.parts:
        settings = {"documents": options.documents}
        settings |= {"sizes": options.sizes} if part == "sides" else {}
        table = Table(
            options.out / f"masked_{part}.csv",
            ("seed", "rate", "asked", "begin", "step"),
            Interval._fields,
            settings,
            {**origin("masked", argv), "about": about},
        )
        PARTS[part](table, options)


PARTS = {"start": start, "sides": sides}

if __name__ == "__main__":
    main()
