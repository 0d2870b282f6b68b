"""Chapter 12: compose a regime; what leaks, who knows the length, and which sampler fits."""

from __future__ import annotations

from dataclasses import dataclass, replace

import ipywidgets as widgets
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ..auditing import pattern
from ..exercises.writers import misnamed
from ..leaks import certificate, hops_of, positions_tell
from ..masks import (
    Mask,
    anticausal,
    bidirectional,
    causal,
    documents,
    flipped,
    hops,
    prefix_lm,
    reach,
    sliding_window,
)
from ..objectives import (
    AbsorbingDiffusion,
    Batch,
    MaskedLM,
    NextToken,
    Objective,
    PreviousToken,
    Rows,
)
from ..plots import GREY, VERMILION
from ..plots.matrices import draw, hatch
from ..tokenizer import BOS, EOS
from .chapter07 import trellis
from .panel import Panel, buttons, picture

STORY = torch.tensor([BOS, 10, 11, 12, 13, 14, EOS])
MASKS = {
    "causal": causal,
    "anticausal": anticausal,
    "open (bidirectional)": bidirectional,
    "prefix of three": prefix_lm(3),
    "window: one back": sliding_window(1, 0),
    "causal, or two ahead": causal | hops(2),
    "causal, rows flipped": None,  # its length is the batch's
}
OBJECTIVES = {
    "the next word": NextToken(),
    "the word before": PreviousToken(),
    "some hidden words": MaskedLM(0.4, (1, 0, 0)),
    "hidden words, pads too": AbsorbingDiffusion(),
}
SAMPLERS = ("left to right", "right to left", "fills holes")
POSITIONS = ("from the left", "from the end")
HOLES = 4  # a seed that hides four of the seven words


class Composed(Objective):
    """An objective with its mask and its positions replaced."""

    def __init__(self, inner: Objective, mask: Mask | None, positions: str) -> None:
        self.inner, self.mask, self.positions = inner, mask, positions
        self.layout = "canvas" if inner.layout == "canvas" else "padded"

    def passes(self, rows: Rows, generator: torch.Generator) -> tuple[Batch, ...]:
        place = rows.position if self.positions == "from the left" else rows.from_end
        made = self.inner.passes(rows, generator)
        return tuple(self._changed(batch, rows, place) for batch in made)

    def _changed(self, batch: Batch, rows: Rows, place: Tensor) -> Batch:
        time, backward = batch.inputs.shape[1], isinstance(self.inner, PreviousToken)
        kept = slice(1, None) if backward else slice(0, time)
        here = rows.document[:, kept]
        if isinstance(self.inner, NextToken):  # the last word is an answer and no input
            here = here.masked_fill(~batch.asked, -1)
        # One flip turns each row of text about its own length.
        mask = flipped(causal, (here >= 0).sum(1), keys=False) if self.mask is None else self.mask
        return replace(batch, mask=mask & documents(here), positions=place[:, kept])


@dataclass(frozen=True)
class Verdict:
    """What is known of a regime before it is trained.

    visible, reached  bool (T, T)          who may look, and who is reached through the layers
    asked             bool (T, T)          [output, input that stands for its answer's place]
    path              tuple or None        of the first leak
    blind             bool                 an asked output may look at nobody
    length            "free" or "given"    who knows it: nobody, or the network
    fits              "" or what hinders the sampler
    """

    visible: Tensor
    reached: Tensor
    asked: Tensor
    leaks: int
    answers: int
    path: tuple[int, ...] | None
    blind: bool
    length: str
    fits: str

    @property
    def accepted(self) -> bool:
        return self.path is None and not self.blind and not self.fits


def judged(mask: str, objective: str, sampler: str, layers: int, positions: str) -> Verdict:
    """Put a regime, by the names of its parts, before the leak check."""
    inner = OBJECTIVES[objective]
    regime = Composed(inner, MASKS[mask], positions)
    rows = regime.alone([STORY], len(STORY))
    (batch,) = regime.passes(rows, torch.Generator().manual_seed(HOLES))
    visible = pattern(batch.mask, batch.inputs.shape[1], 1)[0]
    reached = reach(visible, layers)
    asked = torch.zeros_like(visible)
    output = batch.asked[0].nonzero()[:, 0]
    for i, source in zip(output.tolist(), batch.source.tolist(), strict=True):
        asked[i, batch.shown[0] == source] = True
        if not asked[i].any() and isinstance(inner, MaskedLM | AbsorbingDiffusion):
            asked[i, i] = True  # its place is there, its word is hidden
    blind = bool((batch.asked & ~visible.any(-1)).any())
    found = (
        None if blind else certificate(regime, rows, layers, torch.Generator().manual_seed(HOLES))
    )
    leaks = () if found is None else found.leaks
    length = "given" if positions_tell(regime, layers) else "free"
    fits = hindrance(regime, batch, sampler, reached, length)
    path = leaks[0].path if leaks else None
    return Verdict(visible, reached, asked, len(leaks), len(output), path, blind, length, fits)


def hindrance(regime: Objective, batch: Batch, sampler: str, reached: Tensor, length: str) -> str:
    """Why this sampler cannot write with this regime; "" if it can. ``reached`` bool (T, T)."""
    if other := misnamed(sampler, batch):
        return other
    if sampler == "fills holes":
        blank = "it fills holes, not a blank page: somebody must say where the text ends"
        return "" if regime.layout == "canvas" else blank
    later = reached.triu(1) if sampler == "left to right" else reached.tril(-1)
    if later.any():
        return "it reads words that are not written yet"
    if length == "given":
        return "it was told the length, and nobody tells it when it writes"
    return ""


def composed(
    mask: str, objective: str, sampler: str, layers: int, positions: str
) -> tuple[Figure, str]:
    """The regime as a picture, with its verdict; and the same in words."""
    found = judged(mask, objective, sampler, layers, positions)
    lines = verdict_lines(found, sampler, layers)
    fig, axes = plt.subplots(1, 3, figsize=(8.4, 3.9), width_ratios=[1, 1, 0.95])
    for ax, seen, title in (
        (axes[0], found.visible, "may look"),
        (axes[1], found.reached, f"is reached, layers: {layers}"),
    ):
        _matrix(ax, seen, found.asked)
        ax.set_title(title, fontsize=9)
        ax.set_xlabel("input", fontsize=8)
    axes[0].set_ylabel("output", fontsize=8)
    trellis(axes[2], found.path, layers, len(found.visible))
    name = f"{mask}  +  {objective}  +  {sampler}  (positions {positions})"
    head = "ACCEPTED" if found.accepted else "REFUSED"
    fig.suptitle("\n".join([name, head, *lines]), fontsize=9.5, x=0.01, ha="left")
    fig.tight_layout()
    return fig, f"{name}. {head}: " + "; ".join(lines)


def verdict_lines(found: Verdict, sampler: str, layers: int) -> list[str]:
    """Leak check, length and sampler, one line each."""
    if found.blind:
        first = "leak check: refused, an output that is asked may look at nobody"
    elif found.path is None:
        first = f"leak check: sound, none of {found.answers} answers is told"
    else:
        first = (
            f"leak check: {found.leaks} of {found.answers} answers are told, the first by "
            + hops_of(found.path)
        )
    who = "nobody (free)" if found.length == "free" else "the network (given)"
    fits = found.fits or "fits"
    return [first, f"knows the length: {who}", f"sampler, {sampler}: {fits}"]


def _matrix(ax: Axes, seen: Tensor, asked: Tensor) -> None:
    draw(ax, seen, numbers=False)
    told = asked & seen
    told.fill_diagonal_(False)  # a hidden word's own place tells nothing
    hatch(ax, told)
    for i, j in asked.nonzero().tolist():
        color = VERMILION if told[i, j] else "white" if not seen[i, j] else GREY
        ax.add_patch(plt.Rectangle((j - 0.45, i - 0.45), 0.9, 0.9, fill=False, ec=color, lw=1.5))
    ax.set_xticks(range(len(seen)))
    ax.set_yticks(range(len(seen)))
    ax.tick_params(length=0, labelsize=7)


class ComposeRegime(Panel):
    """Choose mask, objective, sampler, layers and positions; the leak check answers."""

    def __init__(self) -> None:
        def menu(name: str, options: dict, value: str) -> widgets.Dropdown:
            return widgets.Dropdown(options=list(options), value=value, description=name)

        super().__init__(
            {
                "mask": menu("mask", MASKS, "causal, or two ahead"),
                "objective": menu("objective", OBJECTIVES, "the next word"),
                "sampler": buttons("sampler", SAMPLERS),
                "layers": widgets.IntSlider(value=2, min=1, max=4, description="layers"),
                "positions": buttons("positions", POSITIONS),
            },
            lambda state: picture(*composed(**state)),
        )
