"""Chapter 07: join two masks; who may look, who is reached, and which answers leak."""

from __future__ import annotations

import ipywidgets as widgets
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ..leaks import hops_of, leak_path
from ..masks import (
    Mask,
    bidirectional,
    block_causal,
    causal,
    causal_head,
    dense,
    documents,
    prefix_lm,
    reach,
    sliding_window,
)
from ..plots import BLACK, GREY, VERMILION
from ..plots.matrices import draw, hatch
from .panel import Panel, buttons, picture

TOKENS, GIVEN = 8, 4
TWO = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1]])
MASKS = {
    "causal": causal,
    "none (bidirectional)": bidirectional,
    "causal_head(4): the note's hybrid": causal_head(GIVEN),
    "prefix_lm(4)": prefix_lm(GIVEN),
    "window: two back": sliding_window(2, 0),
    "window: one back, one on": sliding_window(1, 1),
    "block_causal(2)": block_causal(2),
    "documents: two of four tokens": documents(TWO),
    "documents, in each prefix_lm(2)": documents(TWO, prefix_lm(2)),
}
JOINS = ("alone", "&", "|")


def joined(first: str, join: str, second: str) -> Mask:
    """Two masks of `MASKS` by name; ``alone`` leaves the second out."""
    one, other = MASKS[first], MASKS[second]
    return {"alone": one, "&": one & other, "|": one | other}[join]


def leaking(visible: Tensor, layers: int, first: int = 0) -> list[int]:
    """Outputs from ``first`` on whose answer, the next token, reaches them; ``visible`` (T, T)."""
    told = reach(visible, layers).diagonal(1).nonzero()[:, 0].tolist()
    return [output for output in told if output >= first]


def reach_pictures(panels: list[list[tuple[str, Tensor, int]]]) -> Figure:
    """Rows of matrices: title, who is seen or reached bool (T, T), and the first asked output.

    The answers that are asked, one place right of the diagonal, have a frame; those that are
    reached are hatched.
    """
    rows, columns = len(panels), len(panels[0])
    fig, axes = plt.subplots(rows, columns, figsize=(2.5 * columns, 2.55 * rows), squeeze=False)
    for row, line in zip(axes, panels, strict=True):
        for ax, (title, seen, first) in zip(row, line, strict=True):
            matrix(ax, seen, first)
            ax.set_title(title, fontsize=9)
        row[0].set_ylabel("output", fontsize=8)
    for ax in axes[-1]:
        ax.set_xlabel("input", fontsize=8)
    fig.tight_layout()
    return fig


def matrix(ax: Axes, seen: Tensor, first: int) -> None:
    time = len(seen)
    draw(ax, seen, numbers=False)
    asked = torch.zeros_like(seen)
    asked.diagonal(1)[first:] = True
    hatch(ax, asked & seen)
    for i, j in asked.nonzero().tolist():
        color = VERMILION if seen[i, j] else "white"
        ax.add_patch(plt.Rectangle((j - 0.45, i - 0.45), 0.9, 0.9, fill=False, ec=color, lw=1.5))
    ax.set_xticks(range(time))
    ax.set_yticks(range(time))
    ax.tick_params(length=0, labelsize=7)


def composed(first: str, join: str, second: str, layers: int) -> tuple[Figure, str]:
    """Mask, reach and the first leak's path; and the same in words."""
    mask = joined(first, join, second)
    visible = dense(mask, TOKENS)[0, 0]
    told = leaking(visible, layers)
    late = leaking(visible, layers, GIVEN - 1)
    fig, axes = plt.subplots(1, 3, figsize=(8.4, 3.3), width_ratios=[1, 1, 0.8])
    matrix(axes[0], visible, 0)
    matrix(axes[1], reach(visible, layers), 0)
    many = f"{layers} layer{'s' if layers > 1 else ''}"
    axes[0].set_title("may look", fontsize=9)
    axes[1].set_title(f"is reached in {many}", fontsize=9)
    path = None
    if told:
        path = leak_path(visible, layers, told[0], told[0] + 1)
    trellis(axes[2], path, layers)
    name = first if join == "alone" else f"{first}  {join}  {second}"
    counts = (
        f"leaks in {many}: {len(told)} of {TOKENS - 1} if every next token is asked, "
        f"{len(late)} of {TOKENS - GIVEN} if the first {GIVEN} are given"
    )
    fig.suptitle(f"{name}\n{counts}", fontsize=9.5, x=0.01, ha="left")
    fig.tight_layout()
    if path is None:
        return fig, f"{name}: {counts}; no leak"
    return fig, f"{name}: {counts}; first path {hops_of(path)}"


def trellis(ax: Axes, path: tuple[int, ...] | None, layers: int, time: int = TOKENS) -> None:
    """Words as columns, layers as rows of dots, and the path of a leak, if there is one."""
    for layer in range(layers + 1):
        ax.plot(range(time), [layer] * time, "o", color="white", mec=GREY, ms=4, zorder=1)
    if path is not None:
        ax.plot(path, range(layers, -1, -1), "o-", color=VERMILION, lw=2, ms=5, zorder=2)
    ax.set_title("path of the first leak" if path else "no path", fontsize=9, color=BLACK)
    ax.set_xticks(range(time))
    ax.set_yticks(range(layers + 1), ["input", *(f"layer {n + 1}" for n in range(layers))])
    ax.tick_params(length=0, labelsize=7)
    ax.set_ylim(-0.4, layers + 0.4)
    for side in ax.spines.values():
        side.set_visible(False)


class ComposeMasks(Panel):
    """Join two masks with ``&`` or ``|``, add layers, and see which answers leak."""

    def __init__(self) -> None:
        def menu(name: str, value: str) -> widgets.Dropdown:
            return widgets.Dropdown(options=list(MASKS), value=value, description=name)

        def show(state: dict) -> str:
            return picture(*composed(**state))

        super().__init__(
            {
                "first": menu("first", "causal_head(4): the note's hybrid"),
                "join": buttons("join", JOINS),
                "second": menu("second", "documents: two of four tokens"),
                "layers": widgets.IntSlider(value=2, min=1, max=4, description="layers"),
            },
            show,
        )
        self.controls["join"].value = "&"
