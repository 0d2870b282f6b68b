"""Side road A4: which word of a sentence matches which word of a story?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from .. import plots, tokenizer
from ..embeddings import Embedder, Matching, Torn
from .panel import Panel, buttons, picture

CHOICES = ("its own", "best of the others", "worst")


@torch.no_grad()
def matched(
    model: Embedder, objective: Matching, pile: Sequence[Torn], sentence: int, choice: str
) -> tuple[Tensor, int, Tensor]:
    """Cosines of the words of a sentence with those of a story (T, U), the story's number, and
    the scores of the whole pile (N,).

    ``choice`` of the story: one of `CHOICES`. Words are all tokens but <bos> and <eos>.
    """
    if choice not in CHOICES:
        raise ValueError(f"a story is {', '.join(CHOICES)}, not {choice!r}")
    batch = objective.batch(pile)
    scores = model.scores(batch)[sentence]
    others = scores.clone()
    others[sentence] = -torch.inf
    story = {"its own": sentence, "best of the others": int(others.argmax())}.get(
        choice, int(scores.argmin())
    )
    hidden = model.base.hidden(batch.inputs, batch.mask, batch.positions)
    unit = torch.nn.functional.normalize(hidden, dim=-1)
    rows, columns = len(pile[sentence].sentence), len(pile[story].story)
    near = unit[sentence, 1 : rows - 1] @ unit[len(pile) + story, 1 : columns - 1].T
    return near, story, scores


def match_picture(near: Tensor, sentence: Tensor, story: Tensor, title: str) -> Figure:
    """A heat map of cosines (T, U); the best word of each row is framed."""
    up, across = tokenizer.words(sentence[1:-1]), tokenizer.words(story[1:-1])
    figure, ax = plt.subplots(figsize=(7.4, 4.2))
    ax.imshow(near.numpy(), cmap="cividis", vmin=-1, vmax=1, aspect="auto")
    for row, best in enumerate(near.argmax(1).tolist()):
        ax.add_patch(
            plt.Rectangle((best - 0.5, row - 0.5), 1, 1, fill=False, ec=plots.VERMILION, lw=2)
        )
        value = float(near[row, best])
        dark = "black" if value > 0.2 else "white"
        ax.text(best, row, f"{value:.1f}", ha="center", va="center", fontsize=7, color=dark)
    ax.set_xticks(range(len(across)), across, rotation=60, ha="right", fontsize=8)
    ax.set_yticks(range(len(up)), up, fontsize=8)
    ax.set_xlabel("words of the story")
    ax.set_ylabel("words of the sentence")
    ax.set_title(title, fontsize=10)
    figure.tight_layout()
    return figure


class WhoMatchesWhom(Panel):
    """Choose a sentence, a story and a reader: which words find which?

    ``readers``: an embedder and its objective, by name. ``pile``: torn pages. ``shown``: how many
    of the sentences can be chosen.
    """

    def __init__(
        self,
        readers: Mapping[str, tuple[Embedder, Matching]],
        pile: Sequence[Torn],
        shown: int = 5,
    ) -> None:
        def draw(state: dict) -> str:
            model, objective = readers[state["reader"]]
            number = int(state["sentence"])
            near, story, scores = matched(model, objective, pile, number, state["story"])
            rank = 1 + int((scores > scores[story]).sum())
            title = f"{state['reader']}: story {story} has place {rank} of {len(pile)}"
            figure = match_picture(near, pile[number].sentence, pile[story].story, title)
            up = tokenizer.words(pile[number].sentence[1:-1])
            across = tokenizer.words(pile[story].story[1:-1])
            pairs = zip(up, near.argmax(1).tolist(), strict=True)
            best = ", ".join(f"{word}-{across[column]}" for word, column in pairs)
            return picture(figure, f"{title}. Best matches: {best}.")

        super().__init__(
            {
                "sentence": buttons("sentence", [str(n) for n in range(shown)]),
                "story": buttons("story", CHOICES),
                "reader": buttons("reader", readers),
            },
            draw,
        )
