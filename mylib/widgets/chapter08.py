"""Chapter 08: flip the rows, the columns or both of a causal mask; where each answer shows."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets as widgets
from torch import Tensor

from .. import plots
from ..leaks import leak_path
from ..masks import causal, dense, flipped, reach
from .panel import Panel, buttons, picture

LAYERS = {"1 layer": 1, "2 layers": 2}


def seen(time: int, queries: bool, keys: bool) -> Tensor:
    """The causal mask of ``time`` tokens with rows and columns in reverse order, bool (T, T)."""
    return dense(flipped(causal, time, queries, keys), time)[0, 0]


def leaking(visible: Tensor, layers: int) -> list[int]:
    """Outputs of a backward reader whose answer, the word before their own, reaches them.

    Output 0 must name a word that stands outside: it is never among them.
    """
    arrived = reach(visible, layers)
    return [i for i in range(1, len(visible)) if arrived[i, i - 1]]


def mirror_path(visible: Tensor, layers: int, output: int) -> tuple[int, ...] | None:
    """The way of the word before ``output`` to it, over a reflection where one is needed.

    That of ``output`` where rows are flipped, that of its answer where columns are. One position
    per layer boundary, from the output down; None without a way.
    """
    if output not in leaking(visible, layers):
        return None
    for mirror in (len(visible) - 1 - output, len(visible) - output):
        direct = layers == 1 or visible[output, output - 1]
        if not direct and visible[output, mirror] and visible[mirror, output - 1]:
            return output, mirror, output - 1
    return leak_path(visible, layers, output, output - 1)


class FlipTable(Panel):
    """Flip rows, columns or both, take one layer or two, choose a target: its path lights."""

    def __init__(self, words: Sequence[str]) -> None:
        time = len(words)

        def draw(state: dict) -> str:
            rows, columns, output = state["rows"], state["columns"], state["output"]
            layers = LAYERS[state["layers"]]
            visible = seen(time, rows, columns)
            told, path = leaking(visible, layers), mirror_path(visible, layers, output)
            flips = " and ".join(n for n, on in (("rows", rows), ("columns", columns)) if on)
            asked = words[output - 1] if output else "the word outside"
            count = f"{len(told)} of {time} targets leak in {state['layers']}"
            way = f"by way of {' <- '.join(map(str, path))}" if path else "does not reach it"
            title = f'{count}; output {output} must say "{asked}": {way}'
            mask = plots.matrix(visible, words, words, title=f"flipped: {flips or 'nothing'}")
            trellis = plots.leak_trellis(words, visible, layers, path, asked, title=title)
            return picture(
                mask, f"Mask with flipped {flips or 'nothing'}: bright may look."
            ) + picture(trellis, f"Leak trellis. {title}.")

        wide = {"style": {"description_width": "90px"}, "layout": {"width": "420px"}}
        super().__init__(
            {
                "rows": widgets.Checkbox(value=True, description="flip rows (queries)"),
                "columns": widgets.Checkbox(value=False, description="flip columns (keys)"),
                "layers": buttons("depth", LAYERS),
                "output": widgets.IntSlider(
                    value=time - 2, min=0, max=time - 1, description="output", **wide
                ),
            },
            draw,
        )
