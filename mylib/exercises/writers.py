"""Writers of the capstone (chapter 12): a page to a given ending; and which objective fits which.

Shapes: B rows, T positions; N pages, C columns of a canvas.
"""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..auditing import pattern
from ..gazette import Gazette
from ..masks import causal, dense, prefix_lm
from ..model import GPT
from ..objectives import Batch, Objective, Rows
from ..sampling import Trace, aligned, generate, generate_backward, write
from ..tokenizer import BW, EOS, FW, MASK, PAD, decode

KEPT = 5  # tokens of the ending, <eos> among them
WRITERS = ("forward", "backward", "inside out", "sheet")
STEPS = {"left to right": (1, "the next word"), "right to left": (-1, "the word before")}


@functools.cache
def evening() -> Gazette:
    return Gazette.load("small")


@dataclass(frozen=True)
class Regime:
    """An objective (it brings mask and positions), who writes, and the settings of the writer.

    ``writer``: "forward" begins with <bos> and heeds no ending; "backward" goes on to the left of
    the ending; "inside out" reads the ending, then <bos>, and goes on to the right; "sheet" fills
    the holes of a sheet that is as long as the burnt page was.
    """

    name: str
    objective: Objective
    writer: str
    settings: dict[str, Any] = field(default_factory=dict)


class EndingFirst(Objective):
    """The last tokens of a page stand first, then the rest, named left to right; <eos> is the stop.

    ``positions``: "row" counts the tokens as they are read, "page" as they stand on the page.
    Source: Bavarian et al., "Efficient Training of Language Models to Fill in the Middle" (2022),
    for the order.
    """

    layout = "padded"

    def __init__(self, positions: str = "row", kept: int = KEPT) -> None:
        self.positions, self.kept = positions, kept

    def passes(self, rows: Rows, generator: torch.Generator) -> tuple[Batch]:
        place = torch.arange(rows.tokens.shape[1]).expand_as(rows.tokens)
        size, kept = rows.valid.sum(1, keepdim=True), self.kept
        clean = torch.where(place < kept, size - kept + place, place - kept)
        clean = torch.where(rows.valid, clean, place)  # the page's place of each token of the row
        asked = rows.valid & (place >= kept)
        last = asked & (place == size - 1)
        source = (clean + 1).masked_fill(last, -1)
        tokens = rows.tokens.gather(1, clean)
        after = torch.where(last, EOS, tokens.roll(-1, 1))
        return (
            Batch(
                inputs=tokens,
                mask=causal,
                positions=clean if self.positions == "page" else rows.position,
                asked=asked,
                targets=after[asked],
                weights=torch.ones(int(asked.sum())),
                denominator=float(asked.sum()),
                source=source[asked],
                shown=clean.masked_fill(~rows.valid, -1),
                copied=torch.zeros(int(asked.sum()), dtype=torch.bool),
            ),
        )


def settings_of(writer: str) -> tuple[str, ...]:
    """The names of the settings that a writer takes."""
    given = inspect.signature(write if writer == "sheet" else generate).parameters.values()
    own = ("order", "budget") if writer == "sheet" else ()
    kinds = inspect.Parameter.KEYWORD_ONLY
    return own + tuple(p.name for p in given if p.kind is kinds and p.name != "generator")


def wrong_settings(regime: Regime) -> str:
    """Settings that the writer does not take, in words; "" if there are none."""
    known = settings_of(regime.writer)
    wrong = [name for name in regime.settings if name not in known]
    return f"the writer {regime.writer!r} has no {wrong[0]!r}; it takes {known}" if wrong else ""


def prompts_of(writer: str, pages: list[Tensor]) -> list[Tensor]:
    """What a writer of one word after the other is given of each page, in its order of reading."""
    if writer == "forward":
        return [page[:1] for page in pages]
    if writer == "backward":
        return [page[-KEPT:].flip(0) for page in pages]
    return [torch.cat([page[-KEPT:], page[:1]]) for page in pages]


def compose(regime: Regime, model: GPT, pages: list[Tensor], seed: int) -> Trace:
    """Write a page to the last `KEPT` tokens of each of these (T,); ids (N, C), `PAD` behind.

    Raises `ValueError` for an unknown writer, and for settings that it does not take.
    """
    if regime.writer not in WRITERS:
        raise ValueError(f"writer is one of {WRITERS}, got {regime.writer!r}")
    if wrong := wrong_settings(regime):
        raise ValueError(wrong)
    length, chance = evening().length, torch.Generator().manual_seed(seed)
    how = dict(generator=chance, **regime.settings)
    if regime.writer == "sheet":
        canvas = evening().canvas(pages)
        size = torch.tensor([len(page) for page in pages])[:, None]
        return write(model, canvas.masked_fill(torch.arange(length) < size - KEPT, MASK), **how)
    prompts = prompts_of(regime.writer, pages)
    if regime.writer == "forward":
        trace = generate(model, prompts, length - 1, **how)
    elif regime.writer == "backward":
        trace = generate_backward(model, [p.flip(0) for p in prompts], length - KEPT, **how)
    else:
        trace = generate(model, prompts, length - KEPT, **how)
    ids = trace.ids
    if regime.writer == "inside out":  # the stop goes, and the ending from the front to the end
        middle = ids[:, KEPT:]
        ids = torch.cat([middle.masked_fill(middle == EOS, PAD), ids[:, :KEPT]], 1)
    ids = aligned(ids)[:, :length]
    ids = pad(ids, (0, length - ids.shape[1]), value=PAD)
    return Trace(ids, trace.frames, trace.commits, trace.revisions, trace.row_passes)


def misnamed(order: str, batch: Batch) -> str:
    """Do the outputs name another word than this order of writing needs? Why, or "" if they do not.

    ``order``: one of `STEPS`, or "fills holes". An output that shows a word and must name the next
    one takes a step of 1; where nothing is shown, it names its own place.
    """
    shown, source = batch.shown[batch.asked], batch.source
    steps = set((source - shown)[(shown >= 0) & (source >= 0)].tolist())
    if order == "fills holes":
        neighbour = "it has never seen a hole: its outputs name a neighbour, not their own place"
        return neighbour if steps - {0} else ""
    step, name = STEPS[order]
    return "" if steps == {step} else f"writing {order} takes outputs that name {name}"


def misfit(regime: Regime, pages: list[Tensor], room: int) -> str:
    """Why this writer cannot use what the objective trains; "" if it can. (Not for the sheet.)

    Of the objective's passes one must name the right words, and be read as the writer reads: first
    the same tokens, the same positions, under the same mask. ``pages`` in rows of ``room`` tokens.
    """
    order = "right to left" if regime.writer == "backward" else "left to right"
    passes = regime.objective.passes(
        regime.objective.alone(pages, room), torch.Generator().manual_seed(0)
    )
    reasons = [misnamed(order, b) or _read_otherwise(regime, b, pages) for b in passes]
    named = [reason for reason in reasons if not reason.startswith("writing")]
    return "" if "" in named else (named or reasons)[0]


def _read_otherwise(regime: Regime, batch: Batch, pages: list[Tensor]) -> str:
    """What a row of the batch shows in another way than the writer does; "" if nothing."""
    visible = pattern(batch.mask, batch.inputs.shape[1], len(batch.inputs))
    for row, prompt in enumerate(prompts_of(regime.writer, pages)):
        real = ((batch.shown[row] >= 0) | batch.asked[row]).nonzero()[:, 0]
        real = real.flip(0) if regime.writer == "backward" else real  # in the order of reading
        first = batch.inputs[row, real][: len(prompt)]
        if not torch.equal(first, prompt):
            told = {FW, BW} & set(first.tolist())
            missing = "the direction token" if told else "what stood there in training"
            return (
                f"in training a page is read from {_words(first)} on, and this writer begins "
                f"with {_words(prompt)}: {missing} is missing in writing"
            )
        if not torch.equal(batch.positions[row, real], torch.arange(len(real))):
            return (
                "the writer counts positions 0, 1, 2, ... as it reads, and your objective does not"
            )
        opened = regime.settings.get("open_prompt", False)
        mask = prefix_lm(len(prompt)) if opened else causal
        if not torch.equal(visible[row][real][:, real], dense(mask, len(real))[0, 0]):
            return (
                "your mask is not the one that the writer writes under: each word looks at all "
                "that was read before it" + (", and the given ones at each other" if opened else "")
            )
    return ""


def _words(ids: Tensor) -> str:
    return repr(decode(ids.tolist(), special=True))
