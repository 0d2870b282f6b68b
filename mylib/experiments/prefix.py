"""A prefix-LM on Tiny Shakespeare: what is an open first half worth to the second?

    python -m mylib.experiments.prefix          (about five minutes on one core)

Windows of 64 of the Gazette's tokens; the last tenth of the text is held out. Three trainings of
one network from the same random weights, on the same windows: "next" (causal mask, every token
asked), "second half" (causal mask, only the 32 last tokens asked), "prefix-LM" (the 32 first see
each other, only the 32 last asked). Each is judged on the second halves of the held-out windows,
with the first half read causally ("closed") and with its tokens seeing each other ("open"): nats
per token. "open - closed": the difference on the same windows, paired. Intervals are bootstrap
intervals over windows.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..datasets import Stream, tiny_shakespeare
from ..files import data_path
from ..floors import answer_counts
from ..masks import causal, documents
from ..metrics import Interval, bootstrap_over, paired_difference
from ..model import GPT, GPTConfig
from ..objectives import Batch, NextToken, PrefixLM, Rows
from ..tokenizer import load_tokenizer
from ..train import fit
from .results import Table, origin, rounded

WINDOW, GIVEN = 64, 32


class Closed(PrefixLM):
    """`PrefixLM` with the causal mask: the same words are asked, and what is given stays closed."""

    def passes(self, rows: Rows, generator: torch.Generator) -> tuple[Batch]:
        (batch,) = super().passes(rows, generator)
        here = rows.document[:, :-1]
        return (replace(batch, mask=causal & documents(here.masked_fill(batch.shown < 0, -1))),)


TRAINED = {"next": NextToken(), "second half": Closed(GIVEN), "prefix-LM": PrefixLM(GIVEN)}
READ = {"closed": Closed(GIVEN), "open": PrefixLM(GIVEN)}


def per_word(sums: Tensor) -> Tensor:
    return sums[:, 1] / sums[:, 0]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    results = data_path("gazette.toml").parent / "results"
    parser.add_argument("--out", type=Path, default=results / "prefix.csv")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--smoke", action="store_true", help="few steps, few windows, one seed")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    sizes, judged = dict(n_embd=64, n_layer=2, n_head=4), None
    if options.smoke:
        sizes, judged = dict(n_embd=16, n_layer=1, n_head=2), 20
        options.steps, options.seeds = 2, [0]
    config = GPTConfig(load_tokenizer().n_vocab, n_positions=WINDOW, **sizes)
    trained, held_out = Stream.of(tiny_shakespeare(), WINDOW).split(0.1)
    windows = held_out.windows()[:judged]
    table = Table(
        options.out,
        ("seed", "trained", "read"),
        Interval._fields,
        {"steps": options.steps, "batch": 32, "sizes": sizes},
        {**origin("prefix", argv), "about": " ".join(__doc__.split("\n\n")[-1].split())},
    )
    table.note(windows=len(windows), training_tokens=len(trained.ids))
    for seed in options.seeds:
        for name, objective in TRAINED.items():
            if table.has(seed=seed, trained=name, read="open - closed"):
                continue
            model = GPT.init(config, torch.Generator().manual_seed(seed))
            fit(model, objective, trained, options.steps, batch=32, seed=seed, progress=False)
            counts = {}
            for read, judge in READ.items():
                counts[read] = answer_counts(model, judge, windows, torch.Generator())
                found = bootstrap_over(counts[read], per_word)
                table.add(seed=seed, trained=name, read=read, **rounded(found))
            found = paired_difference(counts["open"], counts["closed"], per_word)
            table.add(seed=seed, trained=name, read="open - closed", **rounded(found))


if __name__ == "__main__":
    main()
