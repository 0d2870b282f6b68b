"""Chapter 09: corruption to the written rule, an average that is a bound, a discount's pull."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..tokenizer import MASK
from . import check, expect

__all__ = ["check_bound", "check_corrupt", "check_discount"]


# -- 9.1 ---------------------------------------------------------------------------------------

WORDS = range(6, 12)
SIZE, ROWS = 60, 2000


@check("9.1")
def check_corrupt(corrupt: Callable[[Tensor, range, torch.Generator], tuple]) -> None:
    """``corrupt(ids, words, generator)`` -> inputs, targets, each int (T,)."""
    chance = torch.Generator().manual_seed(91)
    clean = torch.randint(WORDS.start, WORDS.stop, (ROWS, SIZE), generator=chance)
    found = []
    for row in clean:
        answer = corrupt(row.clone(), WORDS, chance)
        expect(
            isinstance(answer, tuple | list)
            and len(answer) == 2
            and all(isinstance(each, Tensor) and each.shape == row.shape for each in answer),
            f"return two tensors, inputs and targets, each {tuple(row.shape)} like the row",
        )
        found.append(torch.stack(list(answer)))
    inputs, targets = torch.stack(found, 1)
    hidden, flagged = inputs == MASK, targets == MASK
    expect(hidden.any(), "no word is hidden: show [MASK] in a share of the places")
    expect(
        not (hidden & flagged).any(),
        "at a hidden word the target is the word, not [MASK]: the network is to fill it in (or a "
        "wrong word of yours came out as [MASK]: ids begin at words.start)",
    )
    expect(
        ((inputs >= WORDS.start) & (inputs < WORDS.stop) | hidden).all(),
        "a wrong word is one of `words`; some of yours are not",
    )
    wrong = ~hidden & (inputs != clean)
    expect(wrong.any(), "no word is replaced by another one")
    expect(
        flagged[wrong].all(),
        "at a replaced word the target is [MASK], the proofreader's mark, not the word",
    )
    same = flagged & (inputs == clean)
    expect(
        not same.any(),
        f"{int(same.sum())} words of {int(flagged.sum())} were replaced by themselves, and the "
        "network is told that a right word is wrong: draw among the other words",
    )
    expect(
        torch.equal(targets[~flagged], clean[~flagged]),
        "where no word was replaced the target is the word of the clean row",
    )
    both = (hidden | wrong).double().mean(1)
    expect(
        both.max() < 1,
        "never all words are corrupted: the two rates add up to less than 0.99, and fractions of "
        "words are rounded down",
    )
    shares = {}
    for name, where in (("hidden", hidden), ("replaced", wrong)):
        each = where.double().mean(1)
        expect(
            float(each.std()) > 0.05,
            f"the share of {name} words is the same in all rows: both rates are drawn anew for "
            "every row",
        )
        shares[name] = float(each.mean())
    expect(
        abs(shares["hidden"] - 0.49) < 0.03,
        f"on average 49 % of the words are hidden; with you {shares['hidden']:.0%}: the first rate "
        "is uniform in [0, 0.99) (or your wrong places overwrite hidden ones)",
    )
    expect(
        not 0.22 < shares["replaced"] < 0.27,
        f"{shares['replaced']:.0%} of the words are replaced: you took the second rate as a share "
        "of *all* words. The rule says: of the *remaining* ones",
    )
    expect(
        abs(shares["replaced"] - 0.163) < 0.025,
        f"{shares['replaced']:.0%} of the words are replaced, where the written rule gives 16 %: "
        "the second rate is uniform in [0, 0.99 - first rate), of the words that are not hidden",
    )
    for row in clean[:200, :1]:  # 0.99 of one word is none
        expect(
            torch.equal(corrupt(row.clone(), WORDS, chance)[0], row),
            "a row of one word is changed: both rates are below 0.99, and fractions of words are "
            "rounded down, so nothing is hidden there and nothing replaced",
        )


# -- 9.2 ---------------------------------------------------------------------------------------

PLACES = 4


def _pages() -> list[tuple[tuple[int, ...], float]]:
    """All hidden sets of `PLACES` words, each with its probability: count uniform, then which."""
    pages = []
    for count in range(1, PLACES + 1):
        chance = 1 / PLACES / math.comb(PLACES, count)
        pages += [(some, chance) for some in itertools.combinations(range(PLACES), count)]
    return pages


def _costs(seed: int) -> dict[tuple[int, ...], Tensor]:
    """A reader: what each hidden word costs, nats (T,), given the words that are not hidden."""
    chance = torch.Generator().manual_seed(seed)
    costs = {}
    for some, _ in _pages():
        row = torch.zeros(PLACES, dtype=torch.float64)
        base = torch.rand(len(some), dtype=torch.float64, generator=chance)
        row[list(some)] = (0.2 + base) * len(some)  # the more is hidden, the dearer
        costs[some] = row
    return costs


def order_mean(costs: dict[tuple[int, ...], Tensor]) -> float:
    """What the page costs this reader, revealed word by word, mean over all orders."""
    totals = []
    for order in itertools.permutations(range(PLACES)):
        left = [tuple(sorted(order[n:])) for n in range(PLACES)]
        totals.append(sum(float(costs[some][order[n]]) for n, some in enumerate(left)))
    return sum(totals) / len(totals)


@check("9.2")
def check_bound(bound: Callable[[Tensor, Tensor], float]) -> None:
    """``bound(nats, hidden)`` -> nats per document; float and bool, (B, T) each."""
    _known(bound)
    for seed in (1, 2):
        costs = _costs(seed)
        wanted = order_mean(costs)
        for rows in (1, 2):
            mean = 0.0
            for drawn in itertools.product(_pages(), repeat=rows):
                said = float(bound(*_batch(costs, [some for some, _ in drawn])))
                mean += math.prod(chance for _, chance in drawn) * said
            expect(
                abs(mean - wanted) < 1e-4,
                f"over all pages of {PLACES} words your mean is {mean:.3f} nats, and the mean over "
                f"all orders of reading is {wanted:.3f} (batches of {rows})",
            )


def _batch(costs: dict, holes: list[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
    """The losses of pages with these holes, and where they are: float and bool (B, T)."""
    hidden = torch.zeros(len(holes), PLACES, dtype=torch.bool)
    for row, some in zip(hidden, holes, strict=True):
        row[list(some)] = True
    return torch.stack([costs[some] for some in holes]), hidden


def _known(bound: Callable[[Tensor, Tensor], float]) -> None:
    """Refuse the averages that are no bound: those that equal one of them on every batch."""
    costs, drawn = _costs(3), [some for some, _ in _pages()]
    batches = [_batch(costs, drawn[n : n + size]) for n, size in ((0, 1), (5, 2), (2, 4), (9, 6))]
    said = []
    for nats, hidden in batches:
        said.append(float(bound(nats.clone(), hidden.clone())))
        expect(math.isfinite(said[-1]), f"a batch of {len(nats)} pages gives {said[-1]}")
    for wrong, mistake in (
        (
            lambda nats, hidden: nats.sum() / hidden.sum(),
            "mean over hidden words: that is nats for a word, given what else stands on its page; "
            "a document has T of them, and a page with few holes asks the cheap questions",
        ),
        (
            lambda nats, hidden: PLACES * nats.sum() / hidden.sum(),
            "you pool the rows of the batch: a page with many holes then counts more often than a "
            "page with few, and its words are the dear ones. Weigh each row by its own count",
        ),
        (
            lambda nats, hidden: nats.sum(1).mean(),
            "the plain sum of a page: its hidden words only. A page with k holes asks k of T "
            "words, so each answer stands for T / k",
        ),
        (
            lambda nats, hidden: nats.mean(),
            "mean over all words of the page, hidden or not: the shown ones cost nothing, and so "
            "the number falls as fewer are hidden",
        ),
        (
            lambda nats, hidden: (nats.sum(1) / hidden.sum(1)).mean(),
            "that is the bound for one word; a document has T of them",
        ),
        (
            lambda nats, hidden: PLACES * (nats.sum(1) / hidden.sum(1)).sum(),
            "the rows of a batch are added: the bound is nats for *one* document",
        ),
    ):
        values = [float(wrong(*batch)) for batch in batches]
        expect(any(abs(a - b) > 1e-4 for a, b in zip(said, values, strict=True)), mistake)


# -- 9.3 ---------------------------------------------------------------------------------------


@check("9.3")
def check_discount(pull: Callable[[Tensor, int, float], Tensor], when: str) -> None:
    """``pull(logits, target, keep_mask)`` -> gradient (V,) at a hole; ``when``: early or late."""
    chance = torch.Generator().manual_seed(93)
    for number in range(40):
        logits = torch.randn(9, generator=chance, dtype=torch.float64)
        unsure = number % 2 == 0
        logits[MASK] = logits.max() + 0.5 if unsure else logits.min() - 0.5
        target, discount = (MASK + 1 + number % 5), (0.25, 0.6)[number % 3 == 0]
        answer = pull(logits.clone(), target, discount)
        expect(
            isinstance(answer, Tensor) and answer.shape == logits.shape,
            "return the gradient with respect to the logits, one number for each of them",
        )
        answer = answer.double()
        plain = logits.softmax(0)
        plain[target] -= 1
        weight = discount if unsure else 1.0
        expect(
            not torch.allclose(answer, -weight * plain, atol=1e-6),
            "your signs are turned: the gradient is softmax minus target, and descent goes against "
            "it",
        )
        expect(
            not (unsure and torch.allclose(answer, plain, atol=1e-6)),
            "[MASK] is the likeliest answer, so the loss is discounted; your gradient is not",
        )
        expect(
            unsure or not torch.allclose(answer, discount * plain, atol=1e-6),
            "the discount is given only where [MASK] is the likeliest answer",
        )
        expect(
            not (unsure and answer[MASK] <= 0),
            "you let the discount pull [MASK] up, as if a loss weight taught abstention. The "
            "weight is decided by an argmax: no gradient passes through it, and what is left "
            "is a weight times softmax minus target, which pushes [MASK] down",
        )
        expect(
            torch.allclose(answer, weight * plain, atol=1e-6),
            "the gradient of weight x cross-entropy is weight x (softmax - one at the target)",
        )
    expect(when in ("early", "late"), 'the second answer is "early" or "late"')
    expect(
        when == "early",
        "late? That is what one would hope: a network that has learned what it does not know. But "
        "at every step your own gradient pushes [MASK] down at the holes, discounted or not; it "
        "can be likeliest there only before that has worked",
    )
