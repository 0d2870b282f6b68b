"""Regime cards: what is shown, who may look, what each output says."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from ..masks import Rule, dense
from .matrices import draw
from .palette import BLUE, GREY


def regime_card(
    name: str, *, shown: str, mask: Rule, says: str, length: str, sampler: str = "", n: int = 5
) -> Figure:
    """The course's card of a regime: what is shown, who may look, what outputs say, who knows
    the length."""
    fig, (text, picture) = plt.subplots(
        1, 2, figsize=(6.4, 2.3), gridspec_kw={"width_ratios": [2.6, 1]}
    )
    lines = {"Shown": shown, "Each output says": says, "Knows the length": length}
    if sampler:
        lines["Writes"] = sampler
    text.axis("off")
    text.text(0, 1.0, name, fontsize=13, weight="bold", va="top")
    for number, (key, value) in enumerate(lines.items()):
        y = 0.72 - number * 0.22
        text.text(0, y, key, fontsize=9, color=GREY, va="top")
        text.text(0.37, y, value, fontsize=9, va="top", wrap=True)
    draw(picture, dense(mask, n)[0, 0], numbers=False)
    picture.set_xticks([])
    picture.set_yticks([])
    picture.set_title("may look", fontsize=9, color=GREY)
    fig.tight_layout()
    return fig


def regime_row(cards: Sequence[dict], n: int = 5) -> Figure:
    """Several regimes side by side: ``name``, ``mask`` and ``lines`` of text under it."""
    fig, axes = plt.subplots(1, len(cards), figsize=(2.1 * len(cards), 3.1))
    for ax, card in zip(axes, cards, strict=True):
        draw(ax, dense(card["mask"], n)[0, 0], numbers=False)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_title(card["name"], fontsize=11, weight="bold")
        for number, line in enumerate(card["lines"]):
            ax.text(-0.5, n + 0.1 + 0.8 * number, line, fontsize=8.5, va="center")
    fig.subplots_adjust(left=0.01, right=0.99, top=0.92, bottom=0.34, wspace=0.28)
    return fig


def poster(cards: Sequence[dict], columns: int = 4, n: int = 5) -> Figure:
    """All regimes on one sheet, ``columns`` a row, in the order they are given.

    Each card: ``name``, ``mask``, ``lines`` of text under it (four fit), and ``mine=True`` for the
    one with a frame. Raises `ValueError` where there is nothing to show.

    >>> from mylib.masks import causal
    >>> len(poster([{"name": "next", "mask": causal, "lines": ["a"]}] * 3, columns=2).axes)
    4
    """
    if not cards or columns < 1:
        raise ValueError(f"a poster has at least one card and one column, got {len(cards)} cards")
    rows = -(-len(cards) // columns)
    size = (2.35 * columns, 2.75 * rows)
    fig, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for ax in axes.flat[len(cards) :]:
        ax.axis("off")
    for ax, card in zip(axes.flat, cards, strict=False):
        draw(ax, dense(card["mask"], n)[0, 0], numbers=False)
        ax.set_xticks([])
        ax.set_yticks([])
        mine = card.get("mine", False)
        ax.set_title(card["name"], fontsize=10.5, weight="bold", loc="left")
        text = "\n".join(card["lines"])
        ax.text(0, -0.05, text, fontsize=8.5, va="top", linespacing=1.35, transform=ax.transAxes)
        if mine:
            for side in ax.spines.values():
                side.set(color=BLUE, linewidth=4)
            ax.set_title(f"> {card['name']}", fontsize=10.5, weight="bold", loc="left")
    fig.subplots_adjust(left=0.02, right=0.98, top=0.95, bottom=0.16 / rows**0.5)
    fig.subplots_adjust(wspace=0.25, hspace=0.75)
    return fig
