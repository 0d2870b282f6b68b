"""Chapter 04: a batch with holes, what a copy is worth, and answers one place earlier."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .. import tokenizer
from ..tokenizer import BOS, EOS, FIRST_WORD, MASK, PAD
from . import check, expect

__all__ = ["check_batch_maker", "check_copies", "check_next_position"]

IGNORE = -100


# -- 4.1 ---------------------------------------------------------------------------------------


def _pages(rows: int, words: int, seed: int = 0) -> Tensor:
    """Token ids (rows, words + 5): <bos>, words of the lexicon, <eos>, and pads."""
    chance = torch.Generator().manual_seed(seed)
    lexicon = tokenizer.lexicon()
    tokens = torch.full((rows, words + 5), PAD)
    tokens[:, 0] = BOS
    tokens[:, 1 : words + 1] = torch.randint(
        lexicon.start, lexicon.stop, (rows, words), generator=chance
    )
    tokens[:, words + 1] = EOS
    return tokens


@check("4.1")
def check_batch_maker(make: Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor]]) -> None:
    """``make(tokens, generator)`` -> inputs and labels (B, T), -100 where nothing is asked."""
    tokens = _pages(400, 20)
    before, chance = tokens.clone(), torch.Generator().manual_seed(1)
    inputs, labels = make(tokens, chance)
    expect(
        isinstance(inputs, Tensor) and isinstance(labels, Tensor),
        "return two tensors: inputs and labels",
    )
    expect(
        inputs.shape == labels.shape == tokens.shape,
        f"inputs and labels are {tuple(tokens.shape)} like the tokens",
    )
    expect(torch.equal(tokens, before), "you changed the tokens themselves: clone them first")
    asked, words = labels != IGNORE, tokens >= FIRST_WORD
    expect(asked.any(), "nothing is asked: all labels are -100")
    expect(
        not asked[words].all(),
        "labels stand everywhere: then most answers are there to be copied, and copying is what is "
        "learnt. Put -100 at each word that you did not choose",
    )
    expect(
        not (asked & (tokens == PAD)).any(),
        "pads are hidden and asked: a model would be paid for naming the padding",
    )
    expect(
        not (asked & ~words).any(),
        "<bos> or <eos> is hidden and asked: they always stand there, nothing is to be learnt",
    )
    expect(
        (labels == tokens)[asked].all(),
        "a label must be the word that stood there, not what stands there now",
    )
    expect(
        torch.equal(inputs[~asked], tokens[~asked]),
        "words that are not asked have changed: only the chosen ones may",
    )
    share = float(asked[words].double().mean())
    expect(0.13 < share < 0.17, f"15 % of the words should be asked; here {share:.0%} are")
    given = inputs[asked]
    masked, kept = given == MASK, given == tokens[asked]
    replaced = ~masked & ~kept
    shares = [float(kind.double().mean()) for kind in (masked, replaced, kept)]
    told = ", ".join(f"{share:.0%}" for share in shares)
    expect(
        shares[0] < 0.95,
        "all asked words are [MASK]: a fine objective, but the task wants 80/10/10",
    )
    lexicon = tokenizer.lexicon()
    wrong = given[replaced]
    expect(
        ((wrong >= lexicon.start) & (wrong < lexicon.stop)).all(),
        "some replacements are no words of the paper: draw them from tokenizer.lexicon(), or a "
        "wrong word gives itself away",
    )
    expect(
        0.74 < shares[0] < 0.86 and 0.06 < shares[1] < 0.14 and 0.06 < shares[2] < 0.14,
        f"of the asked words, masked, replaced and kept are {told}; wanted 80, 10 and 10 %",
    )
    short = _pages(1, 3)
    for _ in range(60):
        _, labels = make(short.clone(), chance)
        expect(
            (labels != IGNORE).any(),
            "from a short text, now and then, nothing is asked at all: the mean of no losses is "
            "NaN. See that at least one word is chosen",
        )
    one, other = (make(tokens, torch.Generator().manual_seed(s))[0] for s in (3, 3))
    expect(torch.equal(one, other), "equal generators give unequal batches: draw from `generator`")
    third = make(tokens, torch.Generator().manual_seed(4))[0]
    expect(
        not torch.equal(one, third),
        "unequal generators give equal batches: the same words would be hidden for ever. Draw from "
        "`generator`",
    )


# -- 4.2 ---------------------------------------------------------------------------------------


@check("4.2")
def check_copies(answer: dict) -> None:
    """``answer``: {"leak": "yes" or "no", "all_kept": nats, "with_copies": nats}."""
    keys = {"leak", "all_kept", "with_copies"}
    expect(
        isinstance(answer, dict) and set(answer) == keys,
        'give {"leak": "yes" or "no", "all_kept": nats, "with_copies": nats}',
    )
    if any(value is Ellipsis for value in answer.values()):
        raise NotImplementedError
    expect(answer["leak"] in ("yes", "no"), 'leak is "yes" or "no"')
    expect(
        answer["leak"] == "no",
        "not every visible answer is cheating: a leak is a *hidden* answer that arrives. This one "
        "is shown on purpose, declared, and counted apart",
    )
    nats = answer["all_kept"], answer["with_copies"]
    expect(all(isinstance(n, int | float) for n in nats), "two numbers, in nats")
    expect(
        abs(nats[0]) < 0.05,
        "if each answer stands in its own input, there is nothing left to be surprised by",
    )
    expect(
        abs(nats[1] - 0.70) > 0.005,
        "keeping is not free when it comes to comparing: a tenth of the answers cost nothing and "
        "are in the mean",
    )
    expect(
        abs(nats[1] - 0.63) < 0.011,
        "nine tenths of the answers cost 0.70 nats, one tenth 0: what is the mean?",
    )


# -- 4.3 ---------------------------------------------------------------------------------------


@check("4.3")
def check_next_position(move: Callable[[Tensor], Tensor]) -> None:
    """``move(labels)`` (B, T): each answer one place earlier, -100 where nobody asks."""
    labels = torch.full((3, 6), IGNORE)
    labels[0, 2], labels[0, 5], labels[1, 1] = 12, 15, 21
    before = labels.clone()
    found = move(labels)
    expect(isinstance(found, Tensor), "return the moved labels, a tensor (B, T)")
    expect(found.shape == labels.shape, f"as many labels as outputs: {tuple(labels.shape)}")
    expect(torch.equal(labels, before), "you changed the labels themselves: make new ones")
    wanted = torch.full_like(labels, IGNORE)
    wanted[0, 1], wanted[0, 4], wanted[1, 0] = 12, 15, 21
    expect(not torch.equal(found, labels), "nothing has moved: output i still names word i")
    expect(
        found[0, 3] != 12,
        "off by one, the wrong way: the answer moved to the right, where a causal model has read "
        "the hole already. Output i must name word i + 1",
    )
    expect(torch.equal(found, wanted), "each answer goes to the output one place before its hole")
    first = torch.full((2, 4), IGNORE)
    first[:, 0] = 9
    found = move(first)
    expect(
        not (found[:, -1] == 9).any(),
        "a hole in the first place has nobody before it to ask; you hand its answer to the last "
        "output, which stands behind everything. Drop it",
    )
    expect((found == IGNORE).all(), "a hole in the first place cannot be asked: drop it")
