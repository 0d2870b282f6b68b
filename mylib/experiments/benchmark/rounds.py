"""Contestants side by side: who takes part, how they are timed, what is reported.

One round times every contestant once, and each round begins with another one. Our code runs twice:
how far ``ours again`` lies from ``ours`` is the run's own spread. Processor time is measured, which
other processes disturb less than the time on the wall. ``times_as_fast`` is the other's seconds
over ours, round by round: above 1 ours is faster.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ...model import GPT, GPTConfig
from ...tokenizer import SPECIAL_TOKENS
from .peers import PEERS, load

WORDS = max(SPECIAL_TOKENS.values()) + 1  # the first id that is no special token


def interleaved(steps: dict[str, Callable], repeats: int, warmup: int) -> dict[str, list[float]]:
    """Processor seconds of every step, round by round."""
    names, seconds = list(steps), {name: [] for name in steps}
    for turn in range(-warmup, repeats):
        for i in range(len(names)):
            name = names[(turn + i) % len(names)]
            start = time.process_time()
            steps[name]()
            if turn >= 0:
                seconds[name].append(time.process_time() - start)
    return seconds


def quartiles(values: Sequence[float], digits: int = 4) -> dict[str, float]:
    """Median and quartiles; one value is all three."""
    pair = list(values) * (2 if len(values) == 1 else 1)
    low, middle, high = statistics.quantiles(pair, n=4, method="inclusive")
    return {n: round(v, digits) for n, v in (("median", middle), ("low", low), ("high", high))}


def summary(seconds: dict[str, list[float]]) -> dict[str, dict]:
    """Milliseconds of every contestant, and how many times as fast ours is, with the spread."""
    ours, found = seconds["ours"], {}
    for name, theirs in seconds.items():
        found[name] = {"milliseconds": quartiles([1000 * s for s in theirs], 3)}
        if name != "ours":
            pairs = [b / a for a, b in zip(ours, theirs, strict=True)]
            ratio = statistics.median(theirs) / statistics.median(ours)
            found[name]["times_as_fast"] = {**quartiles(pairs), "of_medians": round(ratio, 4)}
    return found


def fresh(sizes: dict) -> GPT:
    return GPT.init(GPTConfig(**sizes), torch.Generator().manual_seed(0))


def contestants(sizes: dict, names: Sequence[str] = tuple(PEERS)) -> dict[str, nn.Module]:
    """Our model twice and the peers, all with the same weights."""
    ours = fresh(sizes)
    return {"ours": ours, **load(ours, names), "ours again": fresh(sizes)}


def strong(sizes: dict, biases: bool = True) -> GPT:
    """A model none of whose weights is 0 or small, so that each shows in its logits.

    Without ``biases`` norms and attention have none: x-transformers' network.
    """
    model, chance = fresh(sizes), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=chance)
            if not biases and name.endswith("bias") and "mlp" not in name:
                weight.zero_()
    return model


@torch.no_grad()
def same_network(sizes: dict, rows: int, tokens: int) -> dict[str, float]:
    """The largest difference of a peer's logits from ours, with the same strong weights.

    Fresh weights are small, and an equal loss says little about them. Raises `ValueError` for a
    difference beyond rounding.
    """
    ids, found = words(sizes, rows, tokens), {}
    for name in PEERS:
        ours = strong(sizes, biases=name != "x-transformers")
        for peer in load(ours, [name]).values():
            found[name] = float((peer(ids) - ours(ids)).abs().max() / ours(ids).abs().max())
            if not found[name] < 1e-5:
                raise ValueError(f"{name} is another network: its logits are {found[name]:.1g} off")
    return found


def words(sizes: dict, rows: int, tokens: int) -> Tensor:
    """Random ids (rows, tokens), no special ones among them."""
    chance = torch.Generator().manual_seed(0)
    return torch.randint(WORDS, sizes["vocab_size"], (rows, tokens), generator=chance)


def backward(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """A step without an update: forward, loss and backward."""

    def step() -> None:
        loss().backward()
        model.zero_grad()

    return step
