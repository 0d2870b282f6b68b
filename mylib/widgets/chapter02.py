"""Chapter 02: the leak trellis, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets as widgets

from .. import plots
from ..leaks import leak_path
from ..masks import bidirectional, causal, causal_head, dense, hops, reach, sliding_window
from .panel import Panel, buttons, picture

MASKS = {
    "none (bidirectional)": bidirectional,
    "causal": causal,
    "window: one left, one right": sliding_window(1, 1),
    "all but the next word": ~hops(1),
    "one back, three on": hops(-1, 0, 3),
    "causal among the first three": causal_head(3),
}


def way(name: str, time: int, layers: int, output: int) -> tuple[int, ...] | None:
    """The path from ``output`` down to the word it must name (the next one), None without one."""
    visible = dense(MASKS[name], time)[0, 0]
    if output + 1 >= time or not reach(visible, layers)[output, output + 1]:
        return None
    return leak_path(visible, layers, output, output + 1)


class LeakTrellis(Panel):
    """Choose a mask, the number of layers and an output; the path of its answer lights."""

    def __init__(self, words: Sequence[str]) -> None:
        time = len(words)

        def draw(state: dict) -> str:
            name, layers, output = state["mask"], state["layers"], state["output"]
            path = way(name, time, layers, output)
            asked = words[output + 1] if output + 1 < time else "the word outside"
            title = (
                f'output {output} must say "{asked}": '
                + ("the answer reaches it" if path else "no way from the answer to it")
                + f" in {layers} layer{'s' if layers > 1 else ''}"
            )
            visible = dense(MASKS[name], time)[0, 0]
            figure = plots.leak_trellis(words, visible, layers, path, asked, title=title)
            through = f", by way of positions {', '.join(map(str, path))}" if path else ""
            return picture(figure, f"Leak trellis, mask: {name}. {title}{through}.")

        wide = {"style": {"description_width": "110px"}, "layout": {"width": "420px"}}
        super().__init__(
            {
                "mask": buttons("mask", MASKS),
                "layers": widgets.IntSlider(value=1, min=1, max=4, description="layers", **wide),
                "output": widgets.IntSlider(
                    value=0, min=0, max=time - 1, description="output", **wide
                ),
            },
            draw,
        )
