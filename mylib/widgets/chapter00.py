"""Chapter 00: the mask explorer, one layer."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import ipywidgets as widgets
import matplotlib.pyplot as plt
import torch

from .. import plots
from ..masks import (
    Mask,
    anticausal,
    bidirectional,
    block_causal,
    causal,
    dense,
    documents,
    prefix_lm,
    sliding_window,
)
from .panel import Panel, picture

MASKS = {
    "causal": causal,
    "anticausal": anticausal,
    "bidirectional": bidirectional,
    "sliding_window(1, 0)": sliding_window(1, 0),
    "sliding_window(1, 1)": sliding_window(1, 1),
    "prefix_lm(2)": prefix_lm(2),
    "block_causal(2)": block_causal(2),
}


def chosen(name: str, inverted: bool, two_stories: bool, time: int) -> Mask:
    """The mask that the controls describe: inverted first, then cut at half of the words."""
    mask = ~MASKS[name] if inverted else MASKS[name]
    if two_stories:
        mask = mask & documents((torch.arange(time) >= time // 2).long()[None])
    return mask


class MaskExplorer(Panel):
    """Choose a mask, invert it, cut the text in two; a sentence says what one word may see."""

    def __init__(self, words: Sequence[str]) -> None:
        time = len(words)

        def draw(state: dict) -> str:
            mask = chosen(state["mask"], state["inverted"], state["two_stories"], time)
            visible, query = dense(mask, time)[0, 0], state["query"]
            seen = [words[k] for k in visible[query].nonzero()[:, 0].tolist()]
            title = f'"{words[query]}" may look at: {", ".join(seen) or "nobody"}'
            wrapped = "\n".join(textwrap.wrap(title, 44))
            figure = plots.matrix(visible, words, words, title=wrapped)
            figure.axes[0].add_patch(
                plt.Rectangle((-0.5, query - 0.5), time, 1, fill=False, ec=plots.VERMILION, lw=2.5)
            )
            return picture(figure, f"{mask.name} as a matrix. {title}")

        wide = {"style": {"description_width": "110px"}, "layout": {"width": "420px"}}
        super().__init__(
            {
                "mask": widgets.ToggleButtons(
                    options=list(MASKS), value="causal", description="mask"
                ),
                "query": widgets.IntSlider(
                    value=2, min=0, max=time - 1, description="who looks", **wide
                ),
                "inverted": widgets.Checkbox(description="inverted (~)", **wide),
                "two_stories": widgets.Checkbox(description="& two stories in one row", **wide),
            },
            draw,
        )
