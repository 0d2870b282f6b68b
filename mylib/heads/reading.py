"""What a head says of documents: tags of words, spans of answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..evaluation import predict
from ..objectives import Answering, Asking, Tagged, Tagging
from .base import SpanExtractor, TokenClassifier
from .viterbi import viterbi


def read_tags(
    model: TokenClassifier, objective: Tagging, documents: Sequence[Tagged], *, bio: bool = False
) -> list[list[str]]:
    """The tags of each document's words, one list a document.

    The likeliest tag of each word by itself; with ``bio`` the likeliest sequence that is allowed
    (`viterbi`).
    """
    logits = predict(model, objective, documents)
    if bio:
        return [viterbi(each.log_softmax(-1), model.tags) for each in logits]
    return [[model.tags[k] for k in each.argmax(-1).tolist()] for each in logits]


class Span(NamedTuple):
    """The best span of a text: first and last token, and how much likelier than no answer it is.

    ``margin``: log p(span) - log p(null), nats, within its own text.
    """

    first: int
    last: int
    margin: float


def best_span(
    start: Tensor, end: Tensor, candidates: Tensor, null: int, longest: int | None = None
) -> Span:
    """The best allowed span: first <= last, both among the candidates, at most ``longest`` tokens.

    ``start`` and ``end`` (T,): log p, or logits (a constant changes nothing). ``candidates`` bool
    (T,); a span may not leave them. Of equal spans the one that begins first, then the shortest.
    Where no span has a probability above 0 the margin is -inf. Raises `ValueError` for sizes that
    differ, for no candidate, a null outside the text, ``longest`` below 1, and for numbers that
    give no margin (NaN, inf, or a probability of 0 for all spans and for the null).

    >>> start, end = torch.tensor([0.0, 1.0, 5.0, 0.0]), torch.tensor([0.0, 4.0, 2.0, 0.0])
    >>> best_span(start, end, torch.tensor([False, True, True, False]), null=3)
    Span(first=2, last=2, margin=7.0)
    """
    if not start.shape == end.shape == candidates.shape or start.dim() != 1:
        raise ValueError(
            f"start, end and candidates are (T,) alike, got {tuple(start.shape)}, "
            f"{tuple(end.shape)} and {tuple(candidates.shape)}"
        )
    if not candidates.any():
        raise ValueError("no token may be pointed at: there is no candidate")
    if longest is not None and longest < 1:
        raise ValueError(f"a span has at least 1 token, longest={longest}")
    if not 0 <= null < len(start):
        raise ValueError(f"null is a token among {len(start)}, got {null}")
    place = torch.arange(len(start))
    length = place[None, :] - place[:, None] + 1
    # A span within the candidates has as many of them as it has tokens.
    inside = candidates.long().cumsum(0)
    whole = (inside[None, :] - inside[:, None] + 1 == length) & candidates[:, None]
    allowed = whole & candidates[None, :] & (length >= 1)
    if longest is not None:
        allowed &= length <= longest
    spans = allowed.nonzero()
    score = start[spans[:, 0]] + end[spans[:, 1]]
    best = int(score.argmax())
    margin = float(score[best] - start[null] - end[null])
    if math.isnan(margin) or score.isnan().any() or score[best] == torch.inf:
        raise ValueError("start and end are log p or logits, found NaN, inf, or no p above 0")
    return Span(*spans[best].tolist(), margin)


def read_spans(
    model: SpanExtractor,
    objective: Answering,
    documents: Sequence[Asking],
    longest: int | None = None,
) -> list[Span]:
    """The best span of each document, whether or not it is likely enough to be given."""
    found = []
    for logits, document in zip(predict(model, objective, documents), documents, strict=True):
        asked = document.candidates.clone()
        asked[document.null] = True
        spread = logits.new_full((len(asked), 2), -torch.inf)
        spread[asked] = logits
        start, end = spread.unbind(-1)
        found.append(best_span(start, end, document.candidates, document.null, longest))
    return found
