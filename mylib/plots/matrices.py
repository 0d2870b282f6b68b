"""Matrices: who may look at whom, and who was seen to. Rows are queries or outputs."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ..masks import Rule, dense
from ..reports import Report
from .palette import VERMILION, on


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
    draw(ax, values)
    if wrong is not None:
        hatch(ax, wrong)
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


def audit_picture(report: Report, case: str | None = None) -> Figure:
    """One case of an audit, by default the first wrong one; wrong pairs are hatched."""
    case = case or report.first or next(iter(report.cases))
    wrong = report.wrong[case]
    title = f"{case}\nexpected: {report.expected}; wrong pairs: {int(wrong.sum())}"
    return matrix(
        report.cases[case], title=title, row_name="output", column_name="input", wrong=wrong
    )


def influence_row(
    panels: dict[str, Tensor],
    wrong: dict[str, Tensor] | None = None,
    pads: dict[str, Tensor] | None = None,
) -> Figure:
    """Measured influences (T, T) side by side, by title. ``wrong`` pairs are hatched; ``pads``
    bool (T,) are the inputs that are padding: their columns and rows are marked with a P."""
    wide, high = 2.5 * len(panels), 3.0
    fig = plt.figure(figsize=(wide, high))
    for n, (title, seen) in enumerate(panels.items()):
        size = 1.95
        box = ((0.45 + 2.5 * n) / wide, 0.45 / high, size / wide, size / high)
        ax = fig.add_axes(box)
        draw(ax, seen, numbers=False)
        if wrong and title in wrong:
            hatch(ax, wrong[title])
        names = [str(i) for i in range(len(seen))]
        if pads and title in pads:
            names = ["P" if pad else name for name, pad in zip(names, pads[title], strict=True)]
        ax.set_xticks(range(len(seen)), names, fontsize=8)
        ax.set_yticks(range(len(seen)), names, fontsize=8)
        ax.tick_params(length=0)
        ax.set_title(title, fontsize=9)
        ax.set_xlabel("input", fontsize=8)
        if n == 0:
            ax.set_ylabel("output", fontsize=8)
    return fig


def hatch(ax: Axes, pairs: Tensor) -> None:
    """Hatch the pairs (T, T) that should not be as they are."""
    for i, j in pairs.nonzero().tolist():
        box = plt.Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, hatch="////", ec=VERMILION)
        ax.add_patch(box)


def draw(ax: Axes, values: Tensor, numbers: bool = True) -> None:
    """Cells of a matrix, lit or dark; numbers in them up to 8 x 8."""
    height, width = values.shape
    most = max(1.0, float(values.double().max()))
    least = min(0.0, float(values.double().min()))
    image = ax.imshow(values.double().numpy(), cmap="cividis", vmin=least, vmax=most)
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
                cell = image.to_rgba(float(value))
                ax.text(
                    j,
                    i,
                    label,
                    ha="center",
                    va="center",
                    fontsize=8,
                    color=on(cell[:3]),
                )
