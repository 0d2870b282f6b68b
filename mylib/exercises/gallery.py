"""Side road A1: a causal convolution, which tool rings, and a detector of one's own."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from . import check, expect

__all__ = ["check_causal_convolution", "check_detector", "check_tools", "sealed_models"]

MEASURES = ("gradient", "substitution", "prefix")  # each by itself; the audit asks all three
TOOLS = ("certificate", *MEASURES, "audit")


@check("A1.1")
def check_causal_convolution(convolve: Callable) -> None:
    """``convolve(x, weight)``: x (B, T, C), weight (C, C, k) -> (B, T, C).

    A convolution is linear, so one impulse at each input shows all that its outputs see.
    """
    for size in (4, 3, 1):
        _check_width(convolve, size)


def _check_width(convolve: Callable, size: int) -> None:
    batch, time, width = 2, 9, 3
    chance = torch.Generator().manual_seed(0)
    weight = torch.randn(width, width, size, generator=chance)
    x = torch.randn(batch, time, width, generator=chance)
    found = convolve(x, weight)
    expect(
        isinstance(found, Tensor) and found.shape == x.shape,
        f"one output for each input: with k = {size}, (B, T, C) = {tuple(x.shape)}, "
        f"found {tuple(getattr(found, 'shape', ()))}",
    )
    expect(torch.isfinite(found).all(), "the output holds NaN or infinite numbers")
    sees = torch.zeros(time, time, dtype=torch.bool)  # [i, j] = input j moves output i
    for j in range(time):
        moved = x.clone()
        moved[:, j] += 1
        sees[:, j] = (convolve(moved, weight) - found).abs().amax((0, 2)) > 1e-5
    middle = time // 2
    steps = (sees[middle].nonzero()[:, 0] - middle).tolist()  # from an output to its inputs
    expect(steps, "no input moves the output in the middle of the text")
    expect(
        not (max(steps) > 0 and min(steps) < 0),
        f"padded on both sides: the output in the middle sees {max(steps)} ahead",
    )
    expect(
        max(steps) <= 0,
        "cropped at the wrong end: you kept the last T outputs, and each of them looks ahead only",
    )
    expect(
        not sees.triu(1).any(),
        "the padding itself comes from the future: what stands before the first word was copied "
        "from later ones (reflect or circular padding). Look at the first outputs",
    )
    expect(0 in steps, "an output does not see its own input: that is one step too far back")
    inside = F.conv1d(x.mT, weight).mT  # where no padding is needed
    expect(
        torch.allclose(found[:, size - 1 :], inside, atol=1e-4),
        "nothing leaks, but it is another layer: same weights in the same order, only the padding "
        "moves",
    )
    wanted = F.conv1d(F.pad(x.mT, (size - 1, 0)), weight).mT
    expect(
        torch.allclose(found, wanted, atol=1e-4),
        "in front of the first word stand zeros, and nothing else: no copy of the first word, no "
        "other number",
    )


# Exercise A1.2: for each situation the tools that ring. (The audit asks gradient, substitution and
# prefix, so it rings in B, D and E too, and is asked for only where none of those does.)
RING = {
    "A": {"certificate"},
    "B": {"substitution", "prefix"},
    "C": {"audit"},
    "D": {"gradient", "substitution", "prefix"},
    "E": {"gradient"},
    "F": {"none"},
}
MISTAKES = {
    "A": "A: the model is causal, so measuring it finds nothing. Who knows where the answer to "
    "each question stands?",
    "B": "B: the declared mask says nothing about a choice among all positions. Replace words, or "
    "cut the text",
    "C": "C: a clean test on a padded batch proves it for padded batches. Which tool tries the row "
    "without its padding, too?",
    "D": "D: the declared mask is not the used mask: its triangle lies over slots, and the words "
    "were mixed before. Measure",
    "E": "E: a weight of one part in ten million million moves no output visibly. Which tool has "
    "no tolerance?",
    "F": "F: the finished model is as causal as before, and all five will say so. What was wrong "
    "is the order of training and scoring; only a floor or the design of the test shows it",
}


@check("A1.2")
def check_tools(answer: dict[str, str]) -> None:
    """``answer``: for each situation one tool that rings (audit: if no other does), or "none"."""
    expect(
        isinstance(answer, dict) and set(answer) == set(RING),
        "give one tool for each situation, A to F",
    )
    if Ellipsis in answer.values():
        raise NotImplementedError
    expect(None not in answer.values(), 'where no tool rings, say "none", not None')
    unknown = [tool for tool in answer.values() if tool not in (*TOOLS, "none")]
    expect(not unknown, f"a tool is one of {', '.join(TOOLS)}, or none; found {unknown}")
    expect(
        answer["B"] not in ("gradient", "none"),
        "B: a clean gradient proves nothing here: a choice is flat almost everywhere, and the "
        "slope of a step is zero on both of its sides",
    )
    for name, tools in RING.items():
        expect(
            answer[name] != "audit" or not tools & set(MEASURES),
            f"{name}: the audit rings, because one of the tools that it asks does. Which?",
        )
        expect(answer[name] in tools, MISTAKES[name])


VOCABULARY = 32


def sealed_models() -> dict[str, Callable[[Tensor], Tensor]]:
    """Seven models for exercise A1.3, ids (B, T) -> scores (B, T, 32).

    Five look ahead, two do not. Whoever reads on here knows which.
    """
    chance = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=chance)

    words, query, mix = draw(VOCABULARY, 8), draw(8, 8), draw(8, 8) / 3
    kernel, router = draw(8, 8, 3) / 4, draw(8, 4)
    long_kernel = draw(8, 64)

    def attention(x: Tensor, hidden: Tensor) -> Tensor:
        return (x @ query @ x.mT / 8).masked_fill(hidden, -torch.inf).softmax(-1) @ x @ mix

    def ahead(x: Tensor) -> Tensor:
        return torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)

    def opened(x: Tensor) -> Tensor:
        return attention(x, torch.zeros_like(ahead(x)))

    def honest(x: Tensor) -> Tensor:
        return attention(x, ahead(x))

    def fourier(x: Tensor) -> Tensor:  # twice as long as the text, so that nothing wraps around
        size = 2 * x.shape[1]
        product = torch.fft.rfft(x.mT, size) * torch.fft.rfft(long_kernel[:, : x.shape[1]], size)
        return torch.fft.irfft(product, size)[..., : x.shape[1]].mT / 4

    def reflecting(x: Tensor) -> Tensor:
        front = x[:, 1:3].flip(1)  # a short text has less to reflect
        front = F.pad(front, (0, 0, 2 - front.shape[1], 0))
        return F.conv1d(torch.cat([front, x], 1).mT, kernel).mT

    def blocks(x: Tensor) -> Tensor:  # each complete block of eight tells its mean to its members
        whole = x.shape[1] // 8 * 8
        means = x[:, :whole].unflatten(1, (-1, 8)).mean(2, keepdim=True).expand(-1, -1, 8, -1)
        return torch.cat([means.flatten(1, 2) if whole else x[:, :0], x[:, whole:]], 1) @ mix

    def routed(x: Tensor) -> Tensor:  # four experts, each takes the best quarter of the text
        gate, taken = (x @ router).softmax(-1).mT.topk(max(1, x.shape[1] // 4), -1)
        return torch.zeros_like(x @ router).scatter(1, taken.mT, gate.mT) @ router.T

    def model(layer: Callable[[Tensor], Tensor], by_length: bool = False) -> Callable:
        def answer(ids: Tensor) -> Tensor:
            x = words[ids]
            scores = (x + layer(x)) @ words.T
            return scores / (1 + 0.05 * ids.shape[1]) if by_length else scores

        return answer

    layers = {"A": opened, "B": fourier, "C": reflecting, "D": routed, "E": honest, "F": blocks}
    return {**{n: model(layer) for n, layer in layers.items()}, "G": model(honest, by_length=True)}


@check("A1.3")
def check_detector(looks_ahead: Callable) -> None:
    """``looks_ahead(model, vocabulary)`` -> bool, for each of `sealed_models`."""
    found = {name: looks_ahead(model, VOCABULARY) for name, model in sealed_models().items()}
    if None in found.values():
        raise NotImplementedError
    found = {name: _verdict(name, verdict) for name, verdict in found.items()}
    expect(
        not all(found.values()),
        "all seven condemned, and two are honest: a detector must also acquit. If it compares with "
        "==, or with allclose's default tolerance: sums taken in another order differ in their "
        "last digits",
    )
    expect(
        any(found.values()),
        "all seven acquitted. The last output may see everything: which outputs may not?",
    )
    expect(
        not found["B"],
        "B is honest, and you condemn it for its rounding: it uses a Fourier transform. Exact zero "
        "is too strict, and so is allclose's default tolerance; allow a small part of the largest "
        "output",
    )
    expect(not found["E"], "E is honest: what does your test see that is not a later word?")
    lines = {
        "A": "A looks everywhere, and you miss it: compare the earlier outputs, not the last",
        "C": "C is missed: only its first output looks ahead, at the next two words. Replacing the "
        "last word alone, or comparing late outputs alone, does not show it",
        "F": "F is missed: below eight words nothing is wrong with it. Use a longer text",
        "G": "G is missed: one length is not enough. No single word moves anything; the number of "
        "words does. Cut the text",
        "D": "D is missed: a choice among all words turns over at few replacements. Try many, or "
        "cut the text at every place",
    }
    for name, line in lines.items():
        expect(found[name], line)


def _verdict(name: str, verdict: object) -> bool:
    """True or False of any kind: bool, 0 or 1, a NumPy scalar, a tensor with one entry."""
    try:
        value = verdict.item() if hasattr(verdict, "item") else verdict
    except (RuntimeError, ValueError):  # more than one entry
        value = None
    expect(
        isinstance(value, bool | int | float) and value in (0, 1),
        f"{name}: answer True (looks ahead) or False, not {type(verdict).__name__}",
    )
    return bool(value)
