"""Figures of the course, each drawn by one function, with one palette.

Three recur: the regime card, the surprise strip and the leak trellis. Blue is the model, black the
oracle (always an outline or a diamond), the floor a dashed line with its name on it, vermilion
what should not be there. Matrices: rows are queries or outputs, columns keys or inputs.

Every function draws a new figure and returns it; end the cell with ``plt.show()``.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from .masks import Rule, dense

# Okabe and Ito's colours, told apart by readers with any colour vision.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PINK = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY = "#999999"
LINES = (BLUE, ORANGE, GREEN, PINK, SKY)
MARKS = ("o", "s", "^", "v", "P")


def matrix(
    values: Tensor,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    *,
    title: str = "",
    row_name: str = "query",
    column_name: str = "key",
    wrong: Tensor | None = None,
) -> Figure:
    """A matrix (Q, K), bool or number; numbers stand in the cells up to 8 x 8.

    ``wrong`` bool (Q, K) is hatched: what should not be as it is.
    """
    height, width = values.shape
    fig, ax = plt.subplots(figsize=(1.8 + 0.42 * width, 1.3 + 0.36 * height))
    _matrix(ax, values)
    if wrong is not None:
        for i, j in wrong.nonzero().tolist():
            box = plt.Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, hatch="////", ec=VERMILION)
            ax.add_patch(box)
    ax.set_xticks(range(width), columns or range(width), rotation=45 if columns else 0)
    ax.set_yticks(range(height), rows or range(height))
    ax.set_xlabel(column_name)
    ax.set_ylabel(row_name)
    ax.set_title(title, fontsize=10)
    fig.tight_layout()
    return fig


def mask_picture(mask: Rule, n: int = 6, words: Sequence[str] | None = None) -> Figure:
    """Who may look at whom among ``n`` tokens: yellow may look, dark may not."""
    visible = dense(mask, n)[0, 0]
    return matrix(visible, words, words, title=f"{getattr(mask, 'name', 'mask')}: yellow may look")


def influence_picture(
    seen: Tensor,
    expected: Tensor | None = None,
    words: Sequence[str] | None = None,
    title: str = "",
) -> Figure:
    """Measured influence (T, T); what differs from ``expected`` is hatched."""
    wrong = None if expected is None else seen != expected
    return matrix(
        seen, words, words, title=title, row_name="output", column_name="input", wrong=wrong
    )


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
            ax.text(i, top * 0.97, "inf", ha="center", va="top", color=VERMILION, zorder=4)
    totals = f"oracle (outline): {float(oracle.sum()):.1f} nats"
    if model is not None:
        totals += f"    model (blue): {float(model.sum()):.1f} nats"
    ax.set_title(f"{title}\n{totals}" if title else totals, fontsize=10, loc="left")
    ax.set_xticks(x, words, rotation=60, ha="right", rotation_mode="anchor", fontsize=9)
    ax.set_ylim(0, top)
    ax.set_xlim(-0.6, len(words) - 0.4)
    ax.set_ylabel("surprise (nats)")
    _plain(ax)
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
            color=color,
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
    _plain(ax)
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
    y = range(len(words))
    if model is not None:
        ax.barh(y, model.tolist(), color=BLUE, alpha=0.75, height=0.7, label="model")
    ax.plot(oracle.tolist(), y, "D", mfc="none", mec=BLACK, ms=7, ls="", label="oracle")
    ax.set_yticks(y, words)
    ax.invert_yaxis()
    longest = max(float(oracle.max()), float(model.max()) if model is not None else 0.0)
    ax.set_xlim(0, 1.08 * longest)
    ax.set_xlabel(
        f"probability of the {what}"
        + (": model (bar), oracle (diamond)" if model is not None else "")
    )
    ax.set_title(title, fontsize=10, loc="left")
    _plain(ax)
    fig.tight_layout()
    return fig


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
            ax.plot([j, i], [layer, layer + 1], color=GREY, lw=0.6, alpha=0.6, zorder=1)
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
            color=VERMILION,
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
    _matrix(picture, dense(mask, n)[0, 0], numbers=False)
    picture.set_xticks([])
    picture.set_yticks([])
    picture.set_title("may look", fontsize=9, color=GREY)
    fig.tight_layout()
    return fig


def regime_row(cards: Sequence[dict], n: int = 5) -> Figure:
    """Several regimes side by side: ``name``, ``mask`` and ``lines`` of text under it."""
    fig, axes = plt.subplots(1, len(cards), figsize=(2.1 * len(cards), 3.1))
    for ax, card in zip(axes, cards, strict=True):
        _matrix(ax, dense(card["mask"], n)[0, 0], numbers=False)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_title(card["name"], fontsize=11, weight="bold")
        for number, line in enumerate(card["lines"]):
            ax.text(-0.5, n + 0.1 + 0.8 * number, line, fontsize=8.5, va="center")
    fig.subplots_adjust(left=0.01, right=0.99, top=0.92, bottom=0.34, wspace=0.28)
    return fig


def _matrix(ax, values: Tensor, numbers: bool = True) -> None:
    height, width = values.shape
    most = max(1.0, float(values.double().max()))
    least = min(0.0, float(values.double().min()))
    ax.imshow(values.double().numpy(), cmap="cividis", vmin=least, vmax=most)
    for edge in range(1, max(height, width)):
        if edge < width:
            ax.axvline(edge - 0.5, color="white", lw=0.8)
        if edge < height:
            ax.axhline(edge - 0.5, color="white", lw=0.8)
    if numbers and max(height, width) <= 8:
        for i in range(height):
            for j in range(width):
                value = values[i, j]
                label = str(int(value)) if values.dtype == torch.bool else f"{float(value):.2f}"
                dark = float(value) / most < 0.5
                ax.text(
                    j,
                    i,
                    label,
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if dark else "black",
                )


def _plain(ax) -> None:
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    ax.grid(axis="y", lw=0.4, alpha=0.5, zorder=0)
