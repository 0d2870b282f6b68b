"""Chapter 01: the next word, model against oracle."""

from __future__ import annotations

import ipywidgets as widgets
import torch
from torch import Tensor

from .. import plots, tokenizer
from ..gazette import Gazette
from ..model import GPT
from ..sampling import settled
from .panel import Panel, picture


def next_words(
    model: GPT,
    gazette: Gazette,
    story: Tensor,
    place: int,
    temperature: float,
    top_k: int,
    n: int = 10,
) -> tuple[list[str], Tensor, Tensor]:
    """At most ``n`` likely next words after ``place`` tokens of a story (T,), likeliest first.

    Returns the words, the oracle's probabilities (n,) and the model's (n,). Temperature and top_k
    are applied to the model; the oracle is what it is.
    """
    prefix = story[None, :place]
    true = (
        gazette.posterior(
            torch.nn.functional.pad(prefix, (0, 1)), torch.arange(place + 1)[None] < place
        )
        .log_probs[0, place]
        .exp()
    )
    with torch.no_grad():
        logits = model(prefix)[:, -1]
    keep = top_k or None if temperature else 1  # temperature 0: the likeliest word, and no other
    mine = settled(logits, temperature, keep)[0].exp()
    either = torch.maximum(true, mine)
    best = either.topk(n).indices
    best = best[either[best] > 1e-3]  # the rest is nobody's choice
    best = best[true[best].argsort(descending=True, stable=True)]
    return tokenizer.words(best), true[best], mine[best]


class NextWords(Panel):
    """Walk through a story word by word; turn temperature and top-k."""

    def __init__(self, model: GPT, gazette: Gazette, story: Tensor) -> None:
        def draw(state: dict) -> str:
            words, true, mine = next_words(model, gazette, story, **state)
            so_far = tokenizer.decode(story[: state["place"]]) or "(the beginning)"
            figure = plots.next_word_bars(words, true, mine, title=f"... {so_far[-60:]}")
            likely = (
                f"{w}: oracle {t:.2f}, model {m:.2f}"
                for w, t, m in zip(words[:3], true.tolist(), mine.tolist(), strict=False)
            )
            return picture(figure, f"Next words after: {so_far[-60:]}. {'; '.join(likely)}.")

        wide = {"style": {"description_width": "110px"}, "layout": {"width": "420px"}}
        super().__init__(
            {
                "place": widgets.IntSlider(
                    value=3, min=1, max=len(story) - 1, description="tokens read", **wide
                ),
                "temperature": widgets.FloatSlider(
                    value=1.0, min=0.0, max=2.0, step=0.1, description="temperature", **wide
                ),
                "top_k": widgets.ToggleButtons(
                    options=[("all words", 0), ("1", 1), ("2", 2), ("5", 5), ("10", 10)],
                    value=0,
                    description="top-k",
                ),
            },
            draw,
        )
