"""Chapter 10: you against the oracle: which words are asked for first, and how many passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import ipywidgets as widgets
import torch
from torch import Tensor

from .. import tokenizer
from ..gazette import Gazette
from ..page import page
from ..tokenizer import MASK
from .panel import Panel

DRAWS = 200


@dataclass(frozen=True)
class Play:
    """How a page came to be known.

    frames  list of (T,)   the page after every pass
    marks   list           for each frame {place: "written"}, the places that this pass made known
    agree   list of float  for each pass of the player, in what share of draws of the words asked
                           for there is a page with all of them; 1.0: nothing can go wrong
    """

    frames: list[Tensor]
    marks: list[dict[int, str]]
    agree: list[float]


def _certain(gazette: Gazette, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The page with its certain words written in, and the entropy of every hole, nats (T,)."""
    log_p = gazette.denoiser(ids[None])[0]
    best, word = log_p.max(-1)
    ids = torch.where((ids == MASK) & (best.exp() >= 1 - 1e-9), word, ids)
    doubt = torch.special.entr(log_p.exp()).sum(-1)
    return ids, doubt.masked_fill(ids != MASK, -1.0)


def _agree(gazette: Gazette, ids: Tensor, places: Sequence[int]) -> float:
    """Share of draws of the words of ``places``, drawn apart, that fit one page."""
    chances = gazette.denoiser(ids[None])[0, list(places)].exp()
    generator = torch.Generator().manual_seed(0)
    drawn = ids.repeat(DRAWS, 1)
    drawn[:, list(places)] = torch.multinomial(chances, DRAWS, True, generator=generator).T
    dead = gazette.posterior(drawn, visible=drawn != MASK).dead
    return 1 - float(dead.double().mean())


def play(gazette: Gazette, story: Tensor, first: Sequence[int], second: Sequence[int]) -> Play:
    """Ask for the words of ``first`` in one pass and those of ``second`` in the next.

    Every question is answered as in ``story`` (T,), a document on its canvas; words that are
    certain then are free. What is still open the oracle asks for, the most uncertain word first,
    one word a pass. An empty pass is not made, and a word that is known is not asked for.
    """
    ids, doubt = _certain(gazette, torch.full_like(story, MASK))
    frames, marks, agree = [], [], []
    turns = [list(first), list(second)]
    while (ids == MASK).any():
        mine = bool(turns)
        asked = turns.pop(0) if mine else [int(doubt.argmax())]
        asked = [place for place in asked if ids[place] == MASK]
        if not asked:
            continue
        if mine:
            agree.append(_agree(gazette, ids, asked) if len(asked) > 1 else 1.0)
        before, ids = ids, ids.clone()
        ids[asked] = story[asked]
        ids, doubt = _certain(gazette, ids)
        frames.append(ids)
        marks.append({i: "written" for i in (ids != before).nonzero()[:, 0].tolist()})
    return Play(frames, marks, agree)


class YouAgainstTheOracle(Panel):
    """Choose the words of your first two passes; the oracle goes on, and passes are counted."""

    def __init__(self, gazette: Gazette, story: Tensor) -> None:
        names = tokenizer.words(story)
        end = names.index("<eos>") + 1
        alone = len(play(gazette, story, (), ()).frames)

        def draw(state: dict) -> str:
            game = play(gazette, story, state["first"], state["second"])
            says = [
                f"pass {n}: your words, drawn apart, agree in {share:.0%} of {DRAWS} draws."
                for n, share in enumerate(game.agree, 1)
            ]
            count = f"{len(game.frames)} passes; the oracle alone: {alone}."
            if not game.agree:
                count += " You have asked for nothing: the oracle plays alone."
            shown = page(count, [frame[:end] for frame in game.frames], game.marks)
            return shown._repr_html_() + "".join(f"<p>{line}</p>" for line in says)

        options = [(f"{i}: {names[i]}", i) for i in range(1, end)]
        super().__init__(
            {
                name: widgets.SelectMultiple(options=options, value=(), rows=8, description=name)
                for name in ("first", "second")
            },
            draw,
        )
