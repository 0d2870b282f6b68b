"""Chapter 09: a page dissolves; what the proofreader flags, and what the oracle doubts."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets as widgets
import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from .. import tokenizer
from ..gazette import Gazette
from ..masks import bidirectional
from ..model import GPT
from ..objectives.wrong_words import other_words
from ..page import page
from ..plots.palette import BLACK, BLUE, VERMILION, ink, plain
from ..tokenizer import FIRST_WORD, MASK
from .panel import Panel, picture

LEAST = 0.02  # the noise that the oracle reckons with at least


def dissolved(story: Tensor, spoiled: int, hidden: int, seed: int = 0) -> Tensor:
    """A story (T,) with its first ``spoiled`` words, in a random order, replaced by other words of
    the lexicon, and its last ``hidden`` ones by [MASK]. More of either keeps what is there.

    Raises `ValueError` if there are not so many words.
    """
    places = (story >= FIRST_WORD).nonzero()[:, 0]
    if min(spoiled, hidden) < 0 or spoiled + hidden > len(places):
        raise ValueError(f"{spoiled} spoiled and {hidden} hidden of {len(places)} words")
    chance = torch.Generator().manual_seed(seed)
    places = places[torch.randperm(len(places), generator=chance)]
    other = other_words(story, tokenizer.lexicon(), chance)
    page = story.clone()
    page[places[:spoiled]] = other[places[:spoiled]]
    page[places[len(places) - hidden :]] = MASK
    return page


def flags(model: GPT, canvas: Tensor) -> Tensor:
    """p([MASK]) at every position of canvases (B, T): the proofreader's flag, float (B, T)."""
    with torch.no_grad():
        return model(canvas, bidirectional).softmax(-1)[..., MASK]


def doubts(gazette: Gazette, canvas: Tensor, rate: float) -> Tensor:
    """1 - p(the shown word is the right one | the page), float64 (B, T); 0 at holes.

    What a perfect proofreader believes who knows that each word is wrong with probability
    ``rate``, by itself, and then any other word of the lexicon.
    """
    seen = canvas != MASK
    found = []
    for some, visible in zip(canvas.split(64), seen.split(64), strict=True):
        belief = gazette.posterior(gazette.evidence(some, visible, noise=rate)).log_probs
        found.append(1 - belief.gather(-1, some[..., None])[..., 0].exp())
    return torch.cat(found).clamp(0, 1).masked_fill(~seen, 0.0)


def flag_strip(words: Sequence[str], flag: Tensor, doubt: Tensor, wrong: Tensor) -> Figure:
    """Flags as bars, doubts as diamonds, (T,) each; wrong words in another colour, with a mark."""
    fig, ax = plt.subplots(figsize=(8.2, 3.1))
    x = range(len(words))
    ax.bar(x, flag.tolist(), color=BLUE, alpha=0.75, width=0.8)
    ax.plot(x, doubt.tolist(), "D", mfc="none", mec=BLACK, ms=6)
    labels = [f"{word} (!)" if bad else word for word, bad in zip(words, wrong, strict=True)]
    ax.set_xticks(x, labels, rotation=60, ha="right", rotation_mode="anchor", fontsize=9)
    for label, bad in zip(ax.get_xticklabels(), wrong.tolist(), strict=True):
        label.set_color(ink(VERMILION) if bad else BLACK)
    ax.set_ylim(0, 1.08)
    ax.set_xlim(-0.6, len(words) - 0.4)
    ax.set_ylabel("wrong word?")
    ax.set_title(
        "network's flag (bar), oracle's doubt (diamond); spoiled words have (!)",
        fontsize=10,
        loc="left",
    )
    plain(ax)
    fig.tight_layout()
    return fig


class Dissolve(Panel):
    """Spoil and hide more and more words of a story; flags and doubts follow."""

    def __init__(self, model: GPT, gazette: Gazette, story: Tensor) -> None:
        count = int((story >= FIRST_WORD).sum())

        def draw(state: dict) -> str:
            torn = dissolved(story, state["spoiled"], state["hidden"])
            canvas = gazette.canvas([torn])
            flag = flags(model, canvas)[0, : len(story)].masked_fill(torn == MASK, 0.0)
            rate = max(LEAST, state["spoiled"] / count)
            doubt = doubts(gazette, canvas, rate)[0, : len(story)]
            wrong = (torn != story) & (torn != MASK)
            marks = {i: "wrong" for i in wrong.nonzero()[:, 0].tolist()}
            marks |= {i: "flag" for i in (flag > 0.5).nonzero()[:, 0].tolist()}
            words = ["____" if w == "[MASK]" else w for w in tokenizer.words(torn)]
            found, of = int(((flag > 0.5) & wrong).sum()), int(wrong.sum())
            says = (
                f"{of} words spoiled, {found} of them flagged; the oracle doubts "
                f"{int(((doubt > 0.5) & wrong).sum())} of them; {int((torn == MASK).sum())} hidden"
            )
            title = f"Read by the proofreader: {says}"
            html = page(title, [torn], [marks])._repr_html_()
            return html + picture(flag_strip(words, flag, doubt, wrong), says)

        def slider(name: str, value: int) -> widgets.IntSlider:
            return widgets.IntSlider(value=value, min=0, max=count // 2, description=name)

        super().__init__({"spoiled": slider("spoiled", 2), "hidden": slider("hidden", 0)}, draw)
