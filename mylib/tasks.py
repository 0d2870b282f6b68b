"""The Gazette's documents as tasks of reading: tags, questions; and how well they can be done.

Words are the tokens between <bos> and <eos>, punctuation among them; one token is one word here.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from . import tokenizer
from .gazette import Gazette
from .grammar import TAGS
from .objectives import Asking, Tagged
from .questions import Asked
from .tokenizer import BOS, EOS, PAD


def tag_log_probs(
    gazette: Gazette, documents: list[Tensor], sees: Literal["left", "all"]
) -> list[Tensor]:
    """log p of each word's tag, one tensor (W, tags) a document, float64.

    ``sees="all"``: given the whole document. ``sees="left"``: given the words up to the one that
    is judged, as a causal reader has them, who does not know how the text goes on. The likeliest
    tag by this is the best that such a reader can do word by word: its accuracy is a ceiling, and
    the F1 of these tags is the ceiling of its kind.

    The order of tags is that of `grammar.TAGS`. Rounded to 1e-9 nats: two kinds of name may be
    equally likely, and which of them comes first must not depend on the machine.
    """
    if sees not in ("left", "all"):
        raise ValueError(f"a reader sees 'left' or 'all', not {sees!r}")
    if sees == "all":
        canvas = gazette.canvas(documents)
        whole = gazette.tag_posterior(canvas, torch.ones_like(canvas, dtype=torch.bool)).log()
        whole = whole.round(decimals=9)
        return [each[1 : len(text) - 1] for each, text in zip(whole, documents, strict=True)]
    found = []
    for text in documents:
        place = torch.arange(len(text) - 2)  # one row for each word: the text up to it
        visible = torch.ones(len(place), len(text), dtype=torch.bool).tril(1)
        tags = gazette.tag_posterior(text.expand(len(place), -1), visible)
        found.append(tags[place, place + 1].log().round(decimals=9))
    return found


def likeliest(log_probs: list[Tensor]) -> list[list[str]]:
    """The likeliest tag of each word by itself, one list a document."""
    return [[TAGS[k] for k in each.argmax(-1).tolist()] for each in log_probs]


def tagged_documents(gazette: Gazette, documents: list[Tensor]) -> list[Tagged]:
    """Documents with the tags that their grammar gives to their words.

    Raises `ValueError` for a document whose tags are not certain: the grammar cannot write it, or
    can write it in two ways.
    """
    found = []
    for number, (document, log_probs) in enumerate(
        zip(documents, tag_log_probs(gazette, documents, "all"), strict=True)
    ):
        best = log_probs.max(-1)
        if (best.values < -1e-6).any():
            raise ValueError(f"document {number} has no certain tags: {gazette.text(document)!r}")
        place = torch.arange(1, len(document) - 1)
        found.append(Tagged(document, best.indices, place, place))
    return found


def asking(asked: Asked, question: Literal["first", "last", "none"] = "first") -> Asking:
    """A question and its document in one row: ``<bos> question words <eos>``.

    ``question``: where it stands, before or after the document's words, or nowhere (to see what
    it is worth). <eos> stands for no answer: a causal reader, too, has read everything there.
    """
    words = asked.document[1:-1]
    if asked.document[0] != BOS or asked.document[-1] != EOS or (asked.document == PAD).any():
        raise ValueError(f"a document is <bos> ... <eos> without padding, got {asked.document}")
    parts = {
        "first": (asked.question, words),
        "last": (words, asked.question),
        "none": (words,),
    }
    if question not in parts:
        raise ValueError(f"the question stands 'first', 'last' or 'none', not {question!r}")
    start = 1 + (len(asked.question) if question == "first" else 0)  # of the document's words
    ids = torch.cat([torch.tensor([BOS]), *parts[question], torch.tensor([EOS])])
    candidates = torch.zeros(len(ids), dtype=torch.bool)
    candidates[start : start + len(words)] = True
    answer = None
    if asked.answer is not None:
        answer = tuple(place - 1 + start for place in asked.answer)
    return Asking(ids, candidates, len(ids) - 1, answer)


def headline_prompts(
    gazette: Gazette, n: int, generator: torch.Generator
) -> tuple[list[Tensor], list[Tensor]]:
    """``n`` headlines whose story is to be written, and ``n`` stories that lack their headline.

    Each is a fresh document <bos> ... up to its first full stop; all come from documents of a
    headline and a story of one sentence, in either order.
    """
    headline, stop = (tokenizer.load_tokenizer().encode_ordinary(w)[0] for w in (" Headline", "."))
    prompts: tuple[list[Tensor], list[Tensor]] = ([], [])
    while min(map(len, prompts)) < n:
        for text in gazette.sample(500, generator):
            ends = (text == stop).nonzero()[:, 0].tolist()
            if len(ends) == 2 and (text == headline).any():
                prompts[int(text[1] != headline)].append(text[: ends[0] + 1])
    return prompts[0][:n], prompts[1][:n]
