"""The causal mask is taken away and nothing else: the loss on Tiny Shakespeare and on the Gazette.

    python -m mylib.experiments.leakage          (about 20 minutes on one core)

Windows of T + 1 tokens are cut from one stream; T of them are read, T answers are asked. Without a
mask every answer but the last stands in the input, so that the mean loss should be the loss of the
last answer / T. Held-out windows (Shakespeare: the last tenth of the text; Gazette: fresh
documents) do not overlap; intervals are bootstrap intervals over windows. ``rest`` is the mean
loss less last / T: what the answers that are shown still cost, per token. Beside it the causal
model of the same size and training.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from ..datasets import Stream, tiny_shakespeare
from ..files import data_path
from ..gazette import Gazette
from ..masks import bidirectional, causal
from ..metrics import bootstrap
from ..model import GPT, GPTConfig
from ..objectives import NextToken, Rows
from ..tokenizer import load_tokenizer
from ..train import answer_nll, fit
from .results import Table, origin

MASKS = {"none": bidirectional, "causal": causal}


def per_answer(model: GPT, objective: NextToken, windows: list[Tensor], batch: int = 64) -> Tensor:
    """-log p of every answer, nats (windows, T)."""
    found = []
    for start in range(0, len(windows), batch):
        (asked,) = objective.passes(Rows.padded(windows[start : start + batch]), torch.Generator())
        found.append(answer_nll(model, objective, asked).view(len(asked.inputs), -1))
    return torch.cat(found)


def streams(text: str, size: int) -> tuple[Stream, Stream]:
    """Training and held-out stream of windows of ``size`` tokens."""
    if text == "shakespeare":
        return Stream.of(tiny_shakespeare(), size).split(0.1)
    documents = Gazette.load("small").sample(20_000, torch.Generator().manual_seed(1))
    return Stream(torch.cat(documents), size).split(0.1)


def measure(loss: Tensor) -> dict[str, float]:
    """Mean, last / T and what is left, with their intervals, from losses (windows, T)."""
    time = loss.shape[1]
    found = {}
    parts = {
        "mean": loss.mean(1),
        "last_over_T": loss[:, -1] / time,
        "rest": loss[:, :-1].sum(1) / time,
    }
    for name, values in parts.items():
        interval = bootstrap(values)
        found |= {
            name: round(interval.mean, 5),
            f"{name}_low": round(interval.low, 5),
            f"{name}_high": round(interval.high, 5),
        }
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    results = data_path("gazette.toml").parent / "results"
    parser.add_argument("--out", type=Path, default=results / "leakage.csv")
    parser.add_argument("--texts", nargs="+", default=["shakespeare", "gazette"])
    parser.add_argument("--lengths", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=1024, help="tokens read in a step")
    parser.add_argument("--judged", type=int, default=2000, help="held-out windows at most")
    parser.add_argument("--learning-rate", type=float, default=1e-2)
    parser.add_argument("--smoke", action="store_true", help="one tiny model, two steps")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    sizes = dict(n_embd=128, n_layer=2, n_head=4)
    if options.smoke:
        sizes = dict(n_embd=16, n_layer=1, n_head=2)
        options.steps, options.judged, options.tokens = 2, 8, 64
        options.lengths, options.seeds = [8], [0]
    config = GPTConfig(load_tokenizer().n_vocab, n_positions=64, **sizes)
    settings = {name: getattr(options, name) for name in ("steps", "tokens", "learning_rate")}
    settings |= {"judged": options.judged, "config": asdict(config)}
    values = [f"{n}{end}" for n in ("mean", "last_over_T", "rest") for end in ("", "_low", "_high")]
    facts = {**origin("leakage", argv), "about": " ".join(__doc__.split("\n\n")[-1].split())}
    table = Table(options.out, ("text", "T", "mask", "seed"), ("windows", *values), settings, facts)
    for text in options.texts:
        for time in options.lengths:
            trained, held_out = streams(text, time + 1)
            windows = held_out.windows()[: options.judged]
            for seed in options.seeds:
                for mask, rule in MASKS.items():
                    if table.has(text=text, T=time, mask=mask, seed=seed):
                        continue
                    model = GPT.init(config, torch.Generator().manual_seed(seed))
                    fit(
                        model,
                        NextToken(rule),
                        trained,
                        options.steps,
                        batch=max(1, options.tokens // time),
                        learning_rate=options.learning_rate,
                        seed=seed,
                        progress=False,
                    )
                    found = measure(per_answer(model, NextToken(rule), windows))
                    row = dict(text=text, T=time, mask=mask, seed=seed, windows=len(windows))
                    table.add(**row, **found)


if __name__ == "__main__":
    main()
