"""Chapter 08: labels of a backward reader, a right mask that tells the length, a fair plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..masks import Mask, anticausal, causal, flipped, sliding_window
from ..model import GPT, GPTConfig
from ..tokenizer import BOS, EOS, FIRST_WORD, PAD
from . import check, expect

__all__ = ["check_innocent", "check_labels", "check_plan"]


# -- 8.1 ---------------------------------------------------------------------------------------

NOTHING = -100


def _rows() -> Iterator[tuple[Tensor, Tensor]]:
    """Padded documents int (B, T) of different words, and their lengths (B,)."""
    for sizes in ([6], [6, 6], [7, 4, 2], [2, 9, 5]):
        rows = torch.full((len(sizes), max(sizes)), PAD)
        for number, size in enumerate(sizes):
            words = FIRST_WORD + 20 * number + torch.arange(size - 2)
            rows[number, :size] = torch.cat([torch.tensor([BOS]), words, torch.tensor([EOS])])
        yield rows, torch.tensor(sizes)


@check("8.1")
def check_labels(backward: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]) -> None:
    """``backward(rows, lengths)`` -> inputs, targets, positions, each int (B, T - 1)."""
    for rows, lengths in _rows():
        answer = backward(rows.clone(), lengths.clone())
        expect(
            isinstance(answer, tuple | list)
            and len(answer) == 3
            and all(isinstance(each, Tensor) for each in answer),
            "return three tensors: inputs, targets, positions",
        )
        inputs, targets, positions = answer
        wanted = rows[:, 1:].shape
        expect(
            inputs.shape == targets.shape == positions.shape == wanted,
            f"for rows {tuple(rows.shape)} all three are {tuple(wanted)}: one token of a document "
            f"is only read, one only named; got {tuple(inputs.shape)}, {tuple(targets.shape)}, "
            f"{tuple(positions.shape)}",
        )
        place = torch.arange(1, rows.shape[1])
        asked = place < lengths[:, None]
        _inputs(inputs, targets, rows, asked)
        expect(
            (targets[~asked] == NOTHING).all(),
            f"an output that stands on a pad is asked something: its target is {NOTHING}",
        )
        expect(
            not torch.equal(targets[asked], inputs[asked]),
            "each output is asked for the word it stands on: the labels are not shifted",
        )
        expect(
            not torch.equal(targets[:, :-1][asked[:, 1:]], rows[:, 2:][asked[:, 1:]]),
            "forward labels: your outputs must name the word to their right, which a backward "
            "reader has already seen. Shift the labels the other way",
        )
        expect(
            not (targets[:, 0] == NOTHING).any(),
            "output 0 must name <bos>: a backward reader has to find out where the text begins",
        )
        expect(
            torch.equal(targets[asked], rows[:, :-1][asked]),
            "output i stands on token i + 1 of the document and must name token i",
        )
        expect(
            not (len(set(lengths.tolist())) == 1 and torch.equal(positions, positions.sort(1)[0])),
            "your positions rise from left to right: they count from the start, and so the reader "
            "knows at <eos> how long the document is",
        )
        from_end = lengths[:, None] - 1 - place
        expect(
            not torch.equal(positions[asked], from_end[asked] + 1),
            "your positions are one too high: <eos> is 0",
        )
        expect(
            torch.equal(positions[asked], from_end[asked]),
            "positions count from the end of each document, <eos> = 0; not from the end of the "
            "padded row",
        )


def _inputs(inputs: Tensor, targets: Tensor, rows: Tensor, asked: Tensor) -> None:
    expect(
        not torch.equal(inputs, rows[:, :-1]),
        "you drop the last token of the row and read <bos>: that is what a forward reader does. "
        "The wrong end is dropped: a backward reader begins at <eos>, and never reads <bos>",
    )
    expect(
        not torch.equal(inputs, rows[:, 1:].flip(1)),
        "your inputs are the reversed text. That works under a causal mask; here the text stays as "
        "it is, and the mask is anticausal",
    )
    expect(
        torch.equal(inputs[asked], rows[:, 1:][asked]),
        "column i of the inputs is token i + 1 of the document",
    )


# -- 8.2 ---------------------------------------------------------------------------------------


def _reader(mask: Callable[[int], Mask], place: str) -> Callable[[Tensor], Tensor]:
    """A backward reader with random weights: document (T,) -> (T - 1, V)."""
    chance = torch.Generator().manual_seed(8)
    model = GPT.init(GPTConfig(60, n_positions=64, n_embd=16, n_layer=2, n_head=2), chance)
    with torch.no_grad():  # words and places must matter as much as in a trained network
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.copy_(torch.randn(weight.shape, generator=chance) / weight.shape[1] ** 0.5)

    def read(ids: Tensor) -> Tensor:
        count = torch.arange(len(ids) - 1)
        positions = count if place == "start" else count.flip(0)
        with torch.no_grad():
            return model(ids[None, 1:], mask(len(ids) - 1), positions[None])[0]

    return read


def readers() -> dict[str, tuple[Callable[[Tensor], Tensor], bool]]:
    """Name -> a reader, and whether its outputs know only what stands to their right."""
    right = lambda n: anticausal  # noqa: E731
    near = sliding_window(0, 1)
    return {
        "right": (_reader(right, "end"), True),
        "near": (_reader(lambda n: near, "end"), True),
        "start": (_reader(right, "start"), False),
        "one flip": (_reader(lambda n: flipped(causal, n, keys=False), "end"), False),
        "other flip": (_reader(lambda n: flipped(causal, n, queries=False), "end"), False),
        "one word": (_reader(lambda n: sliding_window(1, n), "end"), False),
        "hole": (_reader(lambda n: anticausal | _hole(n - 4, n - 5), "end"), False),
    }


def _hole(query: int, key: int) -> Mask:
    """One query may look at one key."""
    return Mask(lambda b, h, q, k: (q == query) & (k == key), "hole")


def _story(size: int) -> Tensor:
    return torch.tensor([BOS, *range(FIRST_WORD, FIRST_WORD + size), EOS])


@check("8.2")
def check_innocent(innocent: Callable[[Callable[[Tensor], Tensor], Tensor], bool]) -> None:
    """``innocent(read, story)``: does each row depend on nothing but the tokens to its right?"""
    found = {}
    for name, (read, _) in readers().items():
        said = {bool(innocent(read, _story(size))) for size in (8, 11)}
        expect(
            len(said) == 1, "of one and the same reader you say yes for one story, no for another"
        )
        found[name] = said.pop()
    expect(not all(found.values()), "you say True of all seven readers, and there are both kinds")
    expect(
        found["right"],
        "you accuse the reader with the right mask and positions from the end. If you put k words "
        "in front, compare row i with row i + k, not with row i. Or your comparison is too exact: "
        "rounding moves the last digits (atol=1e-4)",
    )
    expect(
        not found["start"],
        "is a right mask enough? One reader whose mask is right counts its positions from the "
        "start, and so knows how long the text is. A replaced word does not show it, for the "
        "length stays the same: put words in front",
    )
    expect(
        found["near"],
        "you accuse a reader with the right mask that looks one word ahead only. To see less than "
        "is allowed is no crime",
    )
    expect(
        not found["one flip"] and not found["other flip"],
        "a mask with one flip goes free: its outputs are moved by words to their left. Replace "
        "each word in turn, and look at the rows from there on",
    )
    expect(
        not found["one word"],
        "one reader may look at a single word to the left of its own, the word it must name, and "
        "goes free",
    )
    expect(
        not found["hole"],
        "one reader peeks from a single place, counted from the end, and goes free: words in front "
        "do not show it. Replace each word in turn",
    )


# -- 8.3 ---------------------------------------------------------------------------------------

STEPS = 40


class _Die:
    """0, 7, 4, ...: over 40 throws each number falls four times. It counts its throws."""

    thrown = 0

    def __call__(self) -> int:
        self.thrown += 1
        return 7 * (self.thrown - 1) % 10


@check("8.3")
def check_plan(plan: Callable[..., dict]) -> None:
    """``plan(p_bw, steps, batch, corpus, die)`` -> passes, forward, fresh."""
    found = {}
    for p_bw in (0.0, 0.1, 0.3, 0.5, 1.0):
        die = _Die()
        answer = plan(p_bw, STEPS, 8, 100, die)
        expect(
            isinstance(answer, dict) and set(answer) == {"passes", "forward", "fresh"},
            "return a dictionary with passes, forward and fresh",
        )
        passes = list(answer["passes"])
        expect(all(isinstance(each, str) for each in passes), "passes is one flat list of strings")
        expect(set(passes) <= {"fw", "bw"}, 'passes holds "fw" and "bw", nothing else')
        found[p_bw] = passes, die.thrown
    forward = {p_bw: passes.count("fw") for p_bw, (passes, _) in found.items()}
    expect(
        len(set(forward.values())) == 1,
        f"with p_bw the number of forward readings changes ({forward[0.0]} at 0, {forward[0.5]} at "
        "0.5): equal tokens in all means fewer forward ones, and the comparison of forward losses "
        "is unfair before it begins. Backward is read in addition",
    )
    expect(forward[0.0] == STEPS, f"{STEPS} steps are {STEPS} forward readings, not {forward[0.0]}")
    backward = {p_bw: passes.count("bw") for p_bw, (passes, _) in found.items()}
    expect(
        backward[0.0] <= STEPS // 10,
        "your coin is upside down: at p_bw = 0 it falls on backward "
        f"{backward[0.0]} times of {STEPS}",
    )
    expect(
        backward[0.0] == 0,
        "at p_bw = 0 your coin still falls on backward sometimes: `<=` counts one face of the die "
        "too many. A number from 0 to 9 is below 0 never, and below 10 always",
    )
    for p_bw, count in backward.items():
        expect(
            count == round(STEPS * p_bw),
            f"at p_bw = {p_bw} there are {count} backward readings in {STEPS} steps of a fair die, "
            f"not {round(STEPS * p_bw)}: throw it once a step, and count its faces",
        )
    expect(
        all(thrown == STEPS for _, thrown in found.values()),
        f"throw the die exactly once a step; in {STEPS} steps you threw it "
        f"{[thrown for _, thrown in found.values()]} times",
    )
    passes, _ = found[1.0]
    expect(passes == ["fw", "bw"] * STEPS, "at every step the forward reading comes first")
    for steps, batch, corpus in ((40, 8, 100), (10, 8, 100), (5, 4, 20), (3, 8, 10**6)):
        answer = plan(1.0, steps, batch, corpus, _Die())
        expect(
            answer["forward"] == steps * batch,
            f"{steps} steps of {batch} documents are {steps * batch} read forward, whatever p_bw "
            f"is; you say {answer['forward']}",
        )
        expect(
            answer["fresh"] != steps * batch or steps * batch <= corpus,
            f"{corpus} documents, read for several epochs, do not become {steps * batch} fresh "
            "ones: the second time is memory (chapter 01)",
        )
        expect(
            answer["fresh"] == min(steps * batch, corpus),
            f"of {corpus} documents, {steps} steps of {batch} have read "
            f"{min(steps * batch, corpus)} different ones, not {answer['fresh']}",
        )
