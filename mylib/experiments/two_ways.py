"""Two directions on Tiny Shakespeare, where nobody knows the floor.

    python -m mylib.experiments.two_ways          (about ten minutes on one core)

Windows of 64 of the Gazette's tokens; the last tenth of the text is held out. A small GPT reads
every batch forward, and with probability ``p_bw`` backward as well, with the right backward mask
or with the published one (`mylib.experiments.forward_backward`). ``forward``, ``backward``: nats a
token on the held-out windows, on the 62 tokens of each that both readings name. ``difference``:
backward less forward, paired. Intervals are bootstrap intervals over windows.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..datasets import Stream, tiny_shakespeare
from ..evaluation import answer_nll
from ..files import data_path
from ..metrics import Interval, bootstrap
from ..model import GPT, GPTConfig
from ..objectives import ForwardBackward, Rows
from ..probes import eval_mode
from ..tokenizer import load_tokenizer
from ..train import fit
from .forward_backward import OBJECTIVES
from .results import Table, origin, rounded

WINDOW = 64
SETTINGS = (("right", 0.0), ("right", 0.1), ("right", 1.0), ("published", 1.0))


def both(model: GPT, objective: ForwardBackward, windows: Sequence[Tensor]) -> list[Tensor]:
    """Nats per token of each window, forward and backward (N,), on the words both readings name."""
    found: list[list[Tensor]] = [[], []]
    with eval_mode(model):
        for start in range(0, len(windows), 64):
            rows = Rows.padded(list(windows[start : start + 64]))
            last = rows.tokens.shape[1] - 1
            for way, batch in zip(found, objective.passes(rows, torch.Generator()), strict=True):
                shared = ((batch.source > 0) & (batch.source < last)).float()
                nll = (answer_nll(model, objective, batch) * shared).view(len(rows.tokens), -1)
                way.append(nll.sum(1) / (last - 1))
    return [torch.cat(way) for way in found]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    results = data_path("gazette.toml").parent / "results"
    parser.add_argument("--out", type=Path, default=results / "two_ways.csv")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
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
        ("seed", "mask", "p_bw", "read"),
        Interval._fields,
        {"steps": options.steps, "batch": 32, "sizes": sizes},
        {**origin("two_ways", argv), "about": " ".join(__doc__.split("\n\n")[-1].split())},
    )
    table.note(windows=len(windows), training_tokens=len(trained.ids))
    for seed in options.seeds:
        for mask, p_bw in SETTINGS:
            key = dict(seed=seed, mask=mask, p_bw=p_bw)
            if table.has(**key, read="difference"):
                continue
            objective = OBJECTIVES[mask](p_bw, direction_tokens=False)
            model = GPT.init(config, torch.Generator().manual_seed(seed))
            fit(model, objective, trained, options.steps, batch=32, seed=seed, progress=False)
            forward, backward = both(model, objective, windows)
            found = dict(forward=forward, backward=backward, difference=backward - forward)
            for read, nats in found.items():
                table.add(**key, read=read, **rounded(bootstrap(nats.double())))


if __name__ == "__main__":
    main()
