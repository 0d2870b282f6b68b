"""Chapter 06: the dial of the evidence, and where two readers point."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets as widgets
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from .. import plots, tokenizer
from ..evaluation import predict
from ..heads import SpanExtractor
from ..masks import Mask
from ..objectives import Answering, Asking
from .panel import Panel, buttons, picture

CLOSED = "#DDDDDD"
LONGEST = 3  # tokens of an answer


def span_probs(model: SpanExtractor, mask: Mask, asked: Asking) -> Tensor:
    """p(start) x p(end) of every pair of tokens, (T, T): rows are starts, columns ends.

    As the two heads say it, each by itself: pairs that are no span have a share, too.
    """
    (logits,) = predict(model, Answering(mask), [asked])
    may = asked.candidates.clone()
    may[asked.null] = True
    spread = torch.zeros(len(may), 2)
    spread[may] = logits.softmax(0)
    return spread[:, 0, None] * spread[None, :, 1]


def forbidden(asked: Asking) -> Tensor:
    """Pairs (T, T) that are no answer: the end before the start, or not in the text (or null)."""
    may = asked.candidates.clone()
    may[asked.null] = True
    inside = may[:, None] & may[None, :]
    null = torch.arange(len(may)) == asked.null
    return ~inside.triu() | (null[:, None] ^ null[None, :])


def shown_tokens(asked: Asking) -> list[int]:
    """The question, the sentence that decides, the null: what a map has room for.

    In a letter: without its greeting and its "Yours, ...".
    """
    names = tokenizer.words(asked.ids)
    text = asked.candidates.nonzero()[:, 0].tolist()
    stops = [i for i in text if names[i] == "."]
    decides = [i for i in text if not stops[1:] or stops[0] < i < stops[1]]
    return [i for i in range(1, len(names)) if not asked.candidates[i] or i in decides]


def draw_map(ax: Axes, probs: Tensor, asked: Asking, title: str = "") -> None:
    """The map of one reader: yellow is likely, hatched cannot be an answer, a box is the answer."""
    keep = shown_tokens(asked)
    names = [tokenizer.words(asked.ids)[i] for i in keep]
    names = ["no answer" if i == asked.null else name for i, name in zip(keep, names, strict=True)]
    # The square root, p of one pointer: a cell of 0.25 is to be seen.
    ax.imshow(probs[keep][:, keep].sqrt().numpy(), cmap="cividis", vmin=0, vmax=1)
    for i, j in forbidden(asked)[keep][:, keep].nonzero().tolist():
        box = plt.Rectangle((j - 0.5, i - 0.5), 1, 1, fc="none", ec=CLOSED, hatch="///", lw=0)
        ax.add_patch(box)
    first, last = asked.answer or (asked.null, asked.null)
    corner = keep.index(last) - 0.5, keep.index(first) - 0.5
    ax.add_patch(plt.Rectangle(corner, 1, 1, fill=False, ec=plots.VERMILION, lw=2))
    ax.set_xticks(range(len(keep)), names, rotation=90, fontsize=6.5)
    ax.set_yticks(range(len(keep)), names, fontsize=6.5)
    ax.tick_params(length=0)
    ax.set_xlabel("end", fontsize=8)
    ax.set_ylabel("start", fontsize=8)
    ax.set_title(title, fontsize=9, loc="left")


def maps(panels: dict[str, tuple[Tensor, Asking]]) -> Figure:
    """Several maps side by side: title -> probabilities (T, T) and the question."""
    fig, axes = plt.subplots(1, len(panels), figsize=(4.1 * len(panels), 4.3), squeeze=False)
    for ax, (title, (probs, asked)) in zip(axes[0], panels.items(), strict=True):
        draw_map(ax, probs, asked, title)
    fig.tight_layout()
    return fig


def choose_letters(left: Sequence[Asking], right: Sequence[Asking], dial: float) -> list[Asking]:
    """One letter for each place; at ``dial`` a share of them has its evidence on the right."""
    count = len(left)
    turn = [(place * 5 % count + 0.5) / count for place in range(count)]  # not all in a row
    return [
        right[place] if turned < dial else left[place]
        for place, turned in zip(range(count), turn, strict=True)
    ]


class EvidenceDial(Panel):
    """Turn the evidence from left to right; see where a reader points, and what it scores.

    ``readers``: name -> (model, mask). ``left`` and ``right``: as many letters of each kind.
    ``scores``: name -> exact match at the two ends of the dial; ``ceiling``: the causal reader's.
    """

    def __init__(
        self,
        readers: dict[str, tuple[SpanExtractor, Mask]],
        left: Sequence[Asking],
        right: Sequence[Asking],
        scores: dict[str, tuple[float, float]],
        ceiling: tuple[float, float],
    ) -> None:
        if len(left) != len(right) or not left:
            raise ValueError(f"{len(left)} letters with evidence left, {len(right)} right")

        def draw(state: dict) -> str:
            number, dial = state["letter"] - 1, state["dial"]
            asked = choose_letters(left, right, dial)[number]
            side = "left" if asked is left[number] else "right"
            probs = span_probs(*readers[state["reader"]], asked)
            fig, (ax, line) = plt.subplots(
                1, 2, figsize=(7.4, 4.4), gridspec_kw={"width_ratios": [1.5, 1]}
            )
            draw_map(ax, probs, asked, f"{state['reader']}: evidence on the {side}")
            _dial_lines(line, scores, ceiling, dial)
            fig.tight_layout()
            names = tokenizer.words(asked.ids)
            long = torch.ones_like(probs).triu(LONGEST).bool()
            best = probs.masked_fill(forbidden(asked) | long, -1).flatten().argmax()
            start, end = divmod(int(best), len(names))
            points = "no answer" if start == asked.null else " ".join(names[start : end + 1])
            first, last = asked.answer or (0, -1)
            right_one = " ".join(names[first : last + 1]) or "no answer"
            return picture(
                fig,
                f"Letter {number + 1}, evidence on the {side}: the {state['reader']} reader points "
                f"at {points}, with p = {float(probs[start, end]):.2f}; right is {right_one}.",
            )

        super().__init__(
            {
                "dial": widgets.FloatSlider(
                    value=1.0, min=0.0, max=1.0, step=0.25, description="right share"
                ),
                "letter": widgets.IntSlider(value=1, min=1, max=len(left), description="letter"),
                "reader": buttons("reader", readers),
            },
            draw,
        )


def _dial_lines(ax: Axes, scores: dict, ceiling: tuple[float, float], dial: float) -> None:
    for (name, ends), color, mark in zip(scores.items(), plots.LINES, plots.MARKS, strict=False):
        here = ends[0] + dial * (ends[1] - ends[0])
        ax.plot((0, 1), ends, color=color, lw=1.5)
        ax.plot([dial], [here], mark, color=color, ms=8)
        below = ends != max(scores.values())
        ax.annotate(
            f"{name} {here:.2f}",
            (dial, here),
            (0, -18 if below else 8),
            textcoords="offset points",
            ha="center",
        )
    ax.plot((0, 1), ceiling, "--", color=plots.BLACK, lw=1.2)
    ax.annotate("dashed: causal ceiling", (-0.1, 0.5), fontsize=8)
    ax.set_ylim(0, 1.15)
    ax.set_xlim(-0.15, 1.15)
    ax.set_xlabel("share with evidence right", fontsize=8)
    ax.set_title("exact match", fontsize=9, loc="left")
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
