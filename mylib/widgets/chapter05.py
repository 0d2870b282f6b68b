"""Chapter 05: a name on a garden path; what it is thought to be, word by word."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import ipywidgets as widgets
import torch
from torch import Tensor

from .. import plots, tokenizer
from ..gazette import Gazette
from ..grammar import TAGS
from ..heads import TokenClassifier
from ..masks import Rule
from .panel import Panel, buttons, picture

KINDS = {"person": "PER", "town": "LOC", "firm": "ORG"}


def of_kinds(probs: Tensor) -> Tensor:
    """p (..., tags), in the order of `TAGS`, as p (..., 3) of the three kinds of name."""
    columns = [[n for n, tag in enumerate(TAGS) if tag[2:] == kind] for kind in KINDS.values()]
    return torch.stack([probs[..., column].sum(-1) for column in columns], -1)


def beliefs(
    model: TokenClassifier | None, mask: Rule, gazette: Gazette, story: Tensor, place: int
) -> tuple[Tensor, Tensor]:
    """What the word at ``place`` of a story (T,) is thought to be, after each word from it on.

    Returns the oracle's p (R, 3) of `KINDS` and the model's; row r: r words after the name are
    read. Without a model its part is the oracle's when the name has just been read.
    """
    read = torch.arange(place + 1, len(story))  # tokens read, <bos> among them
    shown = torch.arange(len(story))[None, :] < read[:, None]
    oracle = gazette.tag_posterior(story.expand(len(read), -1), shown)[:, place]
    if model is None:
        return of_kinds(oracle), of_kinds(oracle[:1]).expand(len(read), -1)
    said = []
    with torch.no_grad():
        for n in read.tolist():
            said.append(model(story[None, :n], mask)[0, place].double().softmax(-1))
    return of_kinds(oracle), of_kinds(torch.stack(said))


class GardenPath(Panel):
    """Reveal a story word by word: is the name a person, a town or a firm?

    ``readers``: a tagger and the mask under which it reads, by name. ``stories``: a document and
    the place of its name, by a short title.
    """

    def __init__(
        self,
        readers: Mapping[str, tuple[TokenClassifier, Rule]],
        gazette: Gazette,
        stories: Mapping[str, tuple[Tensor, int]],
    ) -> None:
        def draw(state: dict) -> str:
            story, place = stories[state["story"]]
            model, mask = readers[state["reader"]]
            oracle, said = beliefs(model, mask, gazette, story, place)
            after = min(state["after"], len(oracle) - 1)
            text = reading(story, place, after)
            figure = plots.next_word_bars(
                list(KINDS), oracle[after], said[after], title=text, what="kind of the name"
            )
            figure.axes[0].set_xlim(0, 1.08)
            sides = zip(KINDS, oracle[after].tolist(), said[after].tolist(), strict=True)
            bars = "; ".join(
                f"{kind}: oracle {o:.2f}, {state['reader']} {m:.2f}" for kind, o, m in sides
            )
            return picture(figure, f"After reading: {text} - {bars}.")

        most = max(len(story) - place - 2 for story, place in stories.values())
        wide = {"style": {"description_width": "110px"}, "layout": {"width": "420px"}}
        super().__init__(
            {
                "story": buttons("story", stories),
                "after": widgets.IntSlider(
                    value=0, min=0, max=most, description="words after it", **wide
                ),
                "reader": buttons("reader", readers),
            },
            draw,
        )


def reading(story: Tensor, place: int, after: int) -> str:
    """The words read so far, the name in brackets, in lines of at most 78 characters."""
    words = tokenizer.words(story[1:-1][: place + after])
    words = [f"[{word}]" if n == place - 1 else word for n, word in enumerate(words)]
    return textwrap.fill(" ".join(words), 78)
