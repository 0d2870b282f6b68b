"""Chapter 04: choose the words to hide; what may stand there, model against oracle."""

from __future__ import annotations

import ipywidgets as widgets
import torch
from torch import Tensor

from .. import plots, tokenizer
from ..gazette import Gazette
from ..masks import bidirectional
from ..model import GPT
from ..tokenizer import MASK
from .panel import Panel, picture

SHOWN = 3  # holes drawn side by side


def guesses(
    model: GPT, gazette: Gazette, story: Tensor, hidden: list[int], n: int = 10
) -> dict[int, tuple[list[str], Tensor, Tensor]]:
    """For each hidden place of a story (T,): words, the oracle's probabilities, the model's (N,).

    At most ``n`` words that one of the two holds for likely, the oracle's likeliest first, equal
    ones by the alphabet.
    """
    torn = story.clone()
    torn[hidden] = MASK
    with torch.no_grad():
        mine = model(torn[None], bidirectional)[0].softmax(-1).double()
    true = gazette.denoiser(torn[None])[0].exp()
    found = {}
    for place in hidden:
        either = torch.maximum(true[place], mine[place])
        best = either.topk(n).indices
        best = best[either[best] > 5e-3]
        names = tokenizer.words(best)
        order = sorted(
            range(len(best)), key=lambda k: (-round(float(true[place, best[k]]), 6), names[k])
        )
        best = best[order]
        found[place] = (tokenizer.words(best), true[place, best], mine[place, best])
    return found


class HoleExplorer(Panel):
    """Hide any words of a story and see what may stand there."""

    def __init__(self, model: GPT, gazette: Gazette, story: Tensor) -> None:
        names = tokenizer.words(story)
        places = range(1, len(story) - 1)

        def draw(state: dict) -> str:
            hidden = sorted(state["hide"])
            if not hidden:
                return "<p>Nothing is hidden, so nothing is asked. Choose a word.</p>"
            text = " ".join("____" if i in hidden else names[i] for i in places)
            found = guesses(model, gazette, story, hidden, n=17)  # all sixteen names
            shown = dict(list(found.items())[:SHOWN])
            more = f"; the first {SHOWN} holes of {len(hidden)}" if len(hidden) > SHOWN else ""
            figure = plots.hole_bars(
                {f"hole {n}: {names[i]}?": bars for n, (i, bars) in enumerate(shown.items(), 1)},
                f"{text}{more}",
            )
            says = "; ".join(
                f"for {names[i]}: {len([p for p in true if p > 5e-3])} words possible, likeliest "
                f"{words[0]} (oracle {float(true[0]):.2f}, model {float(mine[0]):.2f})"
                for i, (words, true, mine) in shown.items()
            )
            return picture(figure, f"{text}. {says}.")

        options = [(f"{i}: {names[i]}", i) for i in places]
        super().__init__(
            {
                "hide": widgets.SelectMultiple(
                    options=options, value=(1,), rows=min(len(options), 9), description="hide"
                )
            },
            draw,
        )
