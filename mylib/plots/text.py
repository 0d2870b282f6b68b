"""Figures along a text or a training: strips, bars, curves, trellises."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from .palette import BLACK, BLUE, GREY, LINES, VERMILION, ink, plain


def surprise_strip(
    words: Sequence[str], oracle: Tensor, model: Tensor | None = None, title: str = ""
) -> Figure:
    """-log p of every word, nats (T,): the model's bar over the oracle's outline, totals printed.

    A bar that is ``inf`` is cut off at the top of the figure and marked.
    """
    if len(words) != len(oracle) or (model is not None and len(model) != len(oracle)):
        raise ValueError(f"{len(words)} words for {len(oracle)} surprises")
    fig, ax = plt.subplots(figsize=(max(6.0, 0.36 * len(words) + 1), 3.3))
    x = range(len(words))
    finite = [v[torch.isfinite(v)] for v in (oracle, model) if v is not None]
    top = 1.15 * max(1.0, float(torch.cat([f.double() for f in finite]).max()))
    if model is not None:
        ax.bar(x, model.clamp(max=top).tolist(), width=0.8, color=BLUE, alpha=0.75, zorder=2)
    ax.bar(x, oracle.clamp(max=top).tolist(), width=0.8, fill=False, ec=BLACK, lw=1.4, zorder=3)
    for bars in (oracle, model):
        for i in [] if bars is None else (bars == torch.inf).nonzero()[:, 0].tolist():
            ax.text(i, top * 0.97, "inf", ha="center", va="top", color=ink(VERMILION), zorder=4)
    totals = f"oracle (outline): {float(oracle.sum()):.1f} nats"
    if model is not None:
        totals += f"    model (blue): {float(model.sum()):.1f} nats"
    ax.set_title(f"{title}\n{totals}" if title else totals, fontsize=10, loc="left")
    ax.set_xticks(x, words, rotation=60, ha="right", rotation_mode="anchor", fontsize=9)
    ax.set_ylim(0, top)
    ax.set_xlim(-0.6, len(words) - 0.4)
    ax.set_ylabel("surprise (nats)")
    plain(ax)
    fig.tight_layout()
    return fig


def loss_on_floor(
    curves: dict[str, tuple[Sequence[float], Sequence[float]]],
    floors: dict[str, float],
    *,
    unit: str = "nats per document",
    top: float | None = None,
    title: str = "",
) -> Figure:
    """Losses over steps, each labelled at its end; every floor a dashed line with its name."""
    fig, ax = plt.subplots(figsize=(6.4, 3.5))
    ends = {}
    for (name, (steps, loss)), color in zip(curves.items(), LINES, strict=False):
        ax.plot(steps, loss, color=color, lw=1.5, zorder=2)
        ends[name] = (steps[-1], loss[-1], color)
    for name, value in floors.items():
        ax.axhline(value, color=BLACK, ls="--", lw=1.2, zorder=3)
        # Beside the axes, where no curve can cross it; two names keep out of each other's way.
        alone = len(floors) == 1
        side = "center" if alone else "bottom" if value == max(floors.values()) else "top"
        ax.annotate(
            f"{name}\n{value:.2f}" if alone else f"{name} {value:.2f}",
            (1.01, value),
            xycoords=("axes fraction", "data"),
            va=side,
            fontsize=9,
        )
    for name, (x, y, color) in ends.items():
        ax.annotate(
            name,
            (x, y),
            xytext=(5, 2),
            textcoords="offset points",
            color=ink(color),
            zorder=5,
            bbox={"fc": "white", "ec": "none", "pad": 1},  # over the floor, not under it
        )
    last = max(x for x, _, _ in ends.values())
    longest = max(map(len, ends))
    ax.set_xlim(-0.02 * last, (1.1 + 0.02 * longest) * last)  # room for the names
    lowest = min([*floors.values(), *(min(loss) for _, loss in curves.values())])
    highest = top or max(max(loss) for _, loss in curves.values())
    ax.set_ylim(lowest - 0.12 * (highest - lowest), highest)
    ax.set_xlabel("training step")
    ax.set_ylabel(unit)
    ax.set_title(title, fontsize=10, loc="left")
    plain(ax)
    fig.tight_layout()
    return fig


def next_word_bars(
    words: Sequence[str],
    oracle: Tensor,
    model: Tensor | None = None,
    title: str = "",
    what: str = "next word",
) -> Figure:
    """Probabilities of the next word (N,), or ``what``: the model's bars, the oracle's diamonds."""
    fig, ax = plt.subplots(figsize=(6.4, 0.9 + 0.27 * len(words)))
    _bars(ax, words, oracle, model)
    ax.set_xlabel(
        f"probability of the {what}"
        + (": model (bar), oracle (diamond)" if model is not None else "")
    )
    ax.set_title(title, fontsize=10, loc="left")
    fig.tight_layout()
    return fig


def hole_bars(holes: dict[str, tuple[Sequence[str], Tensor, Tensor]], title: str = "") -> Figure:
    """What may stand in each hole, side by side: title -> words, oracle (N,), model (N,).

    The model's bars, the oracle's diamonds, as in `next_word_bars`; each hole has its own scale.
    """
    most = max(len(words) for words, _, _ in holes.values())
    size = (max(3.2 * len(holes), 4.2), 1.3 + 0.24 * most)
    fig, axes = plt.subplots(1, len(holes), figsize=size, squeeze=False)
    for ax, (name, (words, oracle, model)) in zip(axes[0], holes.items(), strict=True):
        _bars(ax, words, oracle, model)
        ax.set_ylim(most - 0.4, -0.6)
        ax.set_title(name, fontsize=10, loc="left")
    fig.suptitle(title, fontsize=10)
    fig.supxlabel("probability: model (bar), oracle (diamond)", fontsize=10)
    fig.tight_layout()
    return fig


def _bars(ax, words: Sequence[str], oracle: Tensor, model: Tensor | None) -> None:
    y = range(len(words))
    if model is not None:
        ax.barh(y, model.tolist(), color=BLUE, alpha=0.75, height=0.7)
    ax.plot(oracle.tolist(), y, "D", mfc="none", mec=BLACK, ms=7, ls="")
    ax.set_yticks(y, words)
    ax.invert_yaxis()
    longest = max(float(oracle.max()), float(model.max()) if model is not None else 0.0)
    ax.set_xlim(0, 1.08 * longest)
    plain(ax)


def leak_trellis(
    words: Sequence[str],
    visible: Tensor,
    layers: int,
    path: Sequence[int] | None = None,
    asked: str = "",
    title: str = "",
) -> Figure:
    """Words x layers: every thin line may carry something up; ``path`` is an answer's way.

    ``visible`` bool (T, T). ``path``: as in `mylib.leaks.Leak`, from the output down. ``asked``
    is what the output at the top must say.
    """
    time = len(words)
    fig, ax = plt.subplots(figsize=(max(4.5, 0.85 * time + 1), 1.2 + 0.85 * layers))
    for layer in range(layers):
        for i, j in (visible | torch.eye(time, dtype=torch.bool)).nonzero().tolist():
            ax.plot([j, i], [layer, layer + 1], color=GREY, lw=0.6, alpha=0.8, zorder=1)
    for layer in range(layers + 1):
        ax.plot(range(time), [layer] * time, "o", color="white", mec=BLACK, ms=7, zorder=3)
    if path is not None:
        heights = range(layers, -1, -1)
        ax.plot(list(path), list(heights), color=VERMILION, lw=3, zorder=2)
        ax.plot(list(path), list(heights), "o", color=VERMILION, ms=7, zorder=4)
        ax.annotate(
            f"must say: {asked}" if asked else "asked",
            (path[0], layers),
            xytext=(0, 9),
            textcoords="offset points",
            ha="center",
            color=ink(VERMILION),
            fontsize=10,
        )
    ax.set_xticks(range(time), words, rotation=30)
    ax.set_yticks(range(layers + 1), ["input", *(f"layer {n}" for n in range(1, layers + 1))])
    ax.set_ylim(-0.3, layers + 0.55)
    ax.set_title(title, fontsize=10, loc="left")
    for side in ax.spines.values():
        side.set_visible(False)
    ax.tick_params(length=0)
    fig.tight_layout()
    return fig
