"""What the defaults of `mylib.train.fit` rest on: optimiser, learning rate, schedule, row layout.

    python -m mylib.experiments.optimiser            (about 20 minutes on one core)

Quality: a GPT of 4 layers and 128 channels is trained for 200 steps of 64 documents of the Evening
edition; measured is its excess over the floor on 1,000 fresh documents, nats per document.
Speed: medians and quartiles of interleaved repeats; of an optimiser, a whole step and the update
alone; of a layout, rows, forward and backward without update. The column `seconds` is how long a
cell took, on a machine that may have been busy: not a measurement. A killed run goes on.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from .. import train
from ..datasets import Stream, tiny_shakespeare
from ..files import data_path
from ..gazette import Gazette
from ..metrics import paired_excess
from ..model import GPT, GPTConfig
from ..objectives import NextToken, Rows
from ..tokenizer import load_tokenizer
from .results import Table, origin, rounded

KEY = ("part", "choice", "learning_rate", "schedule", "seed")
VALUES = ("unit", "value", "low", "high", "seconds")
GRID = [("Muon", rate) for rate in (6e-3, 1e-2, 1.5e-2, 2.5e-2, 3e-3)]
GRID += [("AdamW", rate) for rate in (3e-3, 6e-3, 1.2e-2)]


def adamw_alone(model: GPT, learning_rate: float, weight_decay: float) -> list:
    """AdamW for every parameter."""
    everything = model.parameters()
    return [torch.optim.AdamW(everything, learning_rate, (0.9, 0.98), weight_decay=weight_decay)]


def torch_muon(model: GPT, learning_rate: float, weight_decay: float) -> list:
    """`train.make_optimizers` with PyTorch's Muon in place of ours."""
    ours, adamw = train.make_optimizers(model, learning_rate, weight_decay)
    theirs = torch.optim.Muon(
        ours.param_groups[0]["params"],
        learning_rate,
        weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    return [theirs, adamw]


def linear(step: int, steps: int, warmup: float) -> float:
    rise = max(1, round(warmup * steps))
    return min((step + 1) / rise, (steps - step) / max(1, steps - rise + 1))


def constant(step: int, steps: int, warmup: float) -> float:
    return min((step + 1) / max(1, round(warmup * steps)), 1.0)


OPTIMISERS = {"Muon": train.make_optimizers, "AdamW": adamw_alone, "torch.optim.Muon": torch_muon}
SCHEDULES = {"cosine": train.schedule, "linear": linear, "constant": constant}


def quality(table: Table, config: GPTConfig, steps: int, judged: int, seeds: Sequence[int]) -> None:
    """The grid with linear decay, its best cells with more seeds, then the other schedules at
    Muon's best learning rate."""
    gazette = Gazette.load()
    fresh = gazette.sample(judged, torch.Generator().manual_seed(2**31))
    oracle = -gazette.log_prob(gazette.canvas(fresh))
    table.note(floor=round(gazette.entropy, 4))

    def cell(choice: str, rate: float, schedule: str, seed: int) -> None:
        key = dict(choice=choice, learning_rate=rate, schedule=schedule, seed=seed)
        if table.has(part="quality", **key):
            return
        model = GPT.init(config, torch.Generator().manual_seed(seed))
        start = time.perf_counter()
        # `fit` has no option for what it has decided; here its decisions are on trial.
        with patch.multiple(
            train, make_optimizers=OPTIMISERS[choice], schedule=SCHEDULES[schedule]
        ):
            settings = dict(row=128, learning_rate=rate, seed=seed, progress=False)
            train.fit(model, NextToken(), gazette, steps, **settings)
        seconds = time.perf_counter() - start
        excess = paired_excess(train.evaluate(model, NextToken(), fresh), oracle)
        interval = rounded(excess)
        value = interval.pop("mean")
        unit = "nats per document over the floor"
        table.add(
            part="quality", **key, unit=unit, value=value, **interval, seconds=round(seconds, 1)
        )

    for choice, rate in GRID:
        cell(choice, rate, "linear", seeds[0])
    first = seeds[:1]  # alone decides who goes on, so that a resumed run decides alike
    muon = sorted((r for c, r in GRID if c == "Muon"), key=lambda r: mean(table, "Muon", r, first))
    muon = muon[:3]
    adamw = min((r for c, r in GRID if c == "AdamW"), key=lambda r: mean(table, "AdamW", r, first))
    for seed in seeds[1:]:
        for rate in muon:
            cell("Muon", rate, "linear", seed)
        cell("AdamW", adamw, "linear", seed)
    best = min(muon, key=lambda r: mean(table, "Muon", r, seeds))
    for seed in seeds:
        cell("Muon", best, "cosine", seed)
    cell("Muon", best, "constant", seeds[0])


def mean(table: Table, choice: str, rate: float, seeds: Sequence[int]) -> float:
    """Mean excess at a learning rate with linear decay, over these seeds."""
    wanted = {"part": "quality", "choice": choice, "learning_rate": str(rate)}
    wanted["schedule"] = "linear"
    found = [row for row in table.rows if wanted.items() <= row.items()]
    return statistics.mean(float(row["value"]) for row in found if int(row["seed"]) in seeds)


def optimiser_speed(table: Table, config: GPTConfig, repeats: int) -> None:
    """Seconds per whole step, and of the optimiser's share of it."""
    gazette, runs = Gazette.load(), {}
    for name, make in OPTIMISERS.items():
        model = GPT.init(config, torch.Generator().manual_seed(0))
        runs[name] = model, make(model, 1e-2, 0.0)
    whole, update = ({name: [] for name in runs} for _ in range(2))
    for documents in batches(gazette.sample, repeats):
        for name, (model, optimizers) in runs.items():
            start = time.perf_counter()
            backward(model, Rows.packed(documents, 128))
            middle = time.perf_counter()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            whole[name].append(time.perf_counter() - start)
            update[name].append(time.perf_counter() - middle)
    for name in runs:
        record(table, f"{name}: whole step", "seconds per step", whole[name][1:])
        record(table, f"{name}: update", "seconds per step", update[name][1:])


def layout_speed(table: Table, config: GPTConfig, repeats: int) -> None:
    """Tokens of documents per second through layout, forward and backward."""
    sources = {"Gazette": Gazette.load().sample, "unequal lengths": unequal(8, 256)}
    layouts: dict[str, Callable[[list[Tensor]], Rows]] = {"padded": Rows.padded} | {
        f"packed {length}": lambda texts, length=length: Rows.packed(texts, length)
        for length in (64, 128, 256)
    }
    for source, sample in sources.items():
        names = list(layouts) if source == "Gazette" else ["padded", "packed 256"]
        model = GPT.init(replace(config, n_positions=256), torch.Generator().manual_seed(0))
        rates: dict[str, list[float]] = {name: [] for name in names}
        for documents in batches(sample, repeats):
            for name in names:
                start = time.perf_counter()
                backward(model, layouts[name](documents))
                model.zero_grad()
                rates[name].append(sum(map(len, documents)) / (time.perf_counter() - start))
        for name in names:
            record(table, f"{source}: {name}", "document tokens per second", rates[name][1:])


def backward(model: GPT, rows: Rows) -> None:
    for batch in NextToken().make(rows, torch.Generator()):
        hidden = model.hidden(batch.inputs, batch.mask, batch.positions)
        logits = model.head(hidden[batch.asked])
        (NextToken().loss(logits, batch) / batch.denominator).backward()


def batches(sample: Callable, repeats: int) -> Iterator[list[Tensor]]:
    """The batches of 64 documents of a timing run, the first for warming up."""
    chance = torch.Generator().manual_seed(0)
    return (sample(64, chance) for _ in range(repeats + 1))


def unequal(low: int, high: int) -> Callable:
    """Pieces of Tiny Shakespeare whose lengths are log-uniform between ``low`` and ``high``."""
    text = Stream.of(tiny_shakespeare(), high)

    def sample(n: int, chance: torch.Generator) -> list[Tensor]:
        lengths = (low * (high / low) ** torch.rand(n, generator=chance)).round().long().tolist()
        return [w[:k] for w, k in zip(text.sample(n, chance), lengths, strict=True)]

    return sample


def record(table: Table, choice: str, unit: str, found: list[float]) -> None:
    """One speed row: median and quartiles."""
    low, middle, high = statistics.quantiles(found, n=4) if len(found) > 1 else found * 3
    digits = 4 if unit.startswith("seconds") else 0
    numbers = {"value": middle, "low": low, "high": high, "seconds": sum(found)}
    rounded = {name: round(number, digits) for name, number in numbers.items()}
    rounded["seconds"] = ""
    key = dict(part="speed", choice=choice, learning_rate="", schedule="", seed=0)
    table.add(**key, unit=unit, **rounded)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    results = data_path("gazette.toml").parent / "results"
    parser.add_argument("--out", type=Path, default=results / "optimiser.csv")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--judged", type=int, default=1000, help="fresh documents")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--repeats", type=int, default=10, help="of each timing")
    parser.add_argument("--smoke", action="store_true", help="everything, tiny, in seconds")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    sizes = dict(n_embd=16, n_layer=1, n_head=2) if options.smoke else {}
    if options.smoke:
        options.steps, options.judged, options.seeds, options.repeats = 2, 20, [0], 2
    config = GPTConfig(load_tokenizer().n_vocab, n_positions=64, **sizes)
    settings = {name: getattr(options, name) for name in ("steps", "judged", "seeds", "repeats")}
    settings["config"] = vars(config)
    table = Table(options.out, KEY, VALUES, settings, origin("optimiser", argv))
    table.note(about=" ".join(__doc__.split("\n\n")[-1].split()))
    if not table.has(part="speed"):
        optimiser_speed(table, config, options.repeats)
        layout_speed(table, config, options.repeats)
    quality(table, config, options.steps, options.judged, options.seeds)


if __name__ == "__main__":
    main()
