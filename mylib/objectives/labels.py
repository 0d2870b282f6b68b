"""Answers that are no words: a tag for each word, a span, a class for the whole text.

The documents carry their labels (`Tagged`, `Asking`, `Labelled`), the network a head instead of
its vocabulary (`mylib.heads`). Nothing of an answer stands in the input, so a reader may look
wherever it likes: ``mask`` says where, and no choice of it is a leak.

Shapes: B rows, T tokens, W words of a document, N asked outputs, K outputs of the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..masks import Mask, bidirectional, padding
from .base import Batch, Objective, in_full
from .rows import Rows


@dataclass(frozen=True, eq=False)
class Tagged:
    """A document of tokens ``ids`` (T,) whose words have tags: ids ``tags`` (W,) of a tag list.

    ``first`` and ``last`` (W,): the tokens at which each word begins and ends. Raises `ValueError`
    for other numbers of tags and words, for words outside the document or not in its order, and
    for tags below 0.
    """

    ids: Tensor
    tags: Tensor
    first: Tensor
    last: Tensor

    def __post_init__(self) -> None:
        sizes = {len(self.tags), len(self.first), len(self.last)}
        if len(sizes) > 1:
            raise ValueError(
                f"{len(self.tags)} tags for {len(self.first)} first and {len(self.last)} last "
                "tokens of words"
            )
        places = f"{self.first.tolist()} to {self.last.tolist()}"
        inside = (self.first >= 0) & (self.first <= self.last) & (self.last < len(self.ids))
        if not inside.all():
            raise ValueError(
                f"words lie from first to last token within {len(self.ids)} tokens, got {places}"
            )
        if any((each.diff() <= 0).any() for each in (self.first, self.last)):
            # Answers are read off from left to right, so this is the order of the tags, too.
            raise ValueError(
                f"words stand in order, no two begin or end at one token, got {places}"
            )
        if (self.tags < 0).any():
            raise ValueError(f"tags are numbers from 0 on, got {self.tags.tolist()}")

    def twice(self) -> Tagged:
        """The same text read twice over, its words asked in the second reading.

        A causal reader has then seen the whole text before it answers; the mask is untouched.
        Source: Springer et al., "Repetition Improves Language Model Embeddings" (2024).
        """
        again = len(self.ids) - 1  # the first token, <bos>, is not repeated
        ids = torch.cat([self.ids, self.ids[1:]])
        return Tagged(ids, self.tags, self.first + again, self.last + again)


@dataclass(frozen=True, eq=False)
class Asking:
    """A question with its text, ``ids`` (T,), and where in it the answer stands.

    ``candidates`` bool (T,): tokens at which an answer may begin and end. ``null``: the token whose
    "span" means that there is no answer. ``answer``: first and last token, None if there is none.
    """

    ids: Tensor
    candidates: Tensor
    null: int
    answer: tuple[int, int] | None

    def __post_init__(self) -> None:
        if self.candidates.shape != self.ids.shape or self.candidates.dtype != torch.bool:
            raise ValueError(
                f"candidates are bool like ids {tuple(self.ids.shape)}, got "
                f"{self.candidates.dtype} {tuple(self.candidates.shape)}"
            )
        if not 0 <= self.null < len(self.ids) or self.candidates[self.null]:
            raise ValueError(f"null is a token of its own among {len(self.ids)}, got {self.null}")
        if self.answer is not None:
            first, last = self.answer
            if (
                not 0 <= first <= last < len(self.ids)
                or not self.candidates[first : last + 1].all()
            ):
                raise ValueError(
                    f"the answer {self.answer} does not lie within the text, tokens "
                    f"{self.candidates.nonzero()[:, 0].tolist()}"
                )

    def twice(self) -> Asking:
        """Question and text read twice over, the answer pointed at in the second reading."""
        again = len(self.ids) - 1
        ids = torch.cat([self.ids, self.ids[1:]])
        candidates = torch.cat([torch.zeros(again, dtype=torch.bool), self.candidates])
        answer = None if self.answer is None else (self.answer[0] + again, self.answer[1] + again)
        return Asking(ids, candidates, self.null + again, answer)


@dataclass(frozen=True, eq=False)
class Labelled:
    """A document ``ids`` (T,) with one label, the number of a class."""

    ids: Tensor
    label: int

    def __post_init__(self) -> None:
        if self.label < 0:
            raise ValueError(f"a class has a number from 0 on, got {self.label}")


@dataclass(frozen=True)
class _LabelledRows:
    """Padded rows with the documents they were laid out from."""

    rows: Rows
    documents: Sequence


class _Labels(Objective):
    """What the three have in common: padded rows, a mask, and answers that stand nowhere."""

    length = "given"
    layout = "padded"

    def __init__(self, mask: Mask = bidirectional) -> None:
        self.mask = mask

    def alone(self, documents: Sequence, length: int | None = None) -> _LabelledRows:
        longest = max((len(document.ids) for document in documents), default=0)
        if length is not None and longest > length:
            raise ValueError(f"a text of {longest} tokens does not fit rows of {length}")
        # As short as this batch allows: no answer depends on how many pads there are.
        return _LabelledRows(Rows.padded([document.ids for document in documents]), documents)

    def nll(self, logits: Tensor, batch: Batch) -> Tensor:
        """As `Objective.nll`. Raises `ValueError` for a label that the head does not have."""
        if (most := int(batch.targets.max())) >= logits.shape[-1]:
            raise ValueError(f"label {most} for a head of {logits.shape[-1]} outputs")
        return super().nll(logits, batch)

    def _batch(self, rows: Rows, asked: Tensor, targets: Tensor, denominator: float) -> Batch:
        place = torch.arange(rows.tokens.shape[1]).expand_as(rows.tokens)
        return Batch(
            inputs=rows.tokens,
            mask=self.mask & padding(rows.valid),
            positions=rows.position,
            asked=asked,
            targets=targets,
            weights=torch.ones(len(targets)),
            denominator=denominator,
            source=torch.full((len(targets),), -1),
            shown=place.masked_fill(~rows.valid, -1),
            copied=torch.zeros(len(targets), dtype=torch.bool),
        )


class Tagging(_Labels):
    """Name the tag of each word of a `Tagged` document, at the word's ``ask`` token.

    A reader that sees both sides may be asked at the first token of a word; a causal one has seen
    the whole word only at its last.
    Source: source note 1, "train_ner"; Devlin et al. (2019), section 5.3, for the first token.
    """

    def __init__(self, mask: Mask = bidirectional, ask: Literal["first", "last"] = "last") -> None:
        if ask not in ("first", "last"):
            raise ValueError(f"a word is asked at its 'first' or 'last' token, not {ask!r}")
        super().__init__(mask)
        self.ask = ask

    def passes(self, rows: _LabelledRows, generator: torch.Generator) -> tuple[Batch]:
        asked = torch.zeros_like(rows.rows.valid)
        for row, document in enumerate(rows.documents):
            asked[row, getattr(document, self.ask)] = True
        targets = torch.cat([document.tags for document in rows.documents])
        return (self._batch(rows.rows, asked, targets, float(len(targets))),)


BEGINS, ENDS = 1, 2  # an `Answering` target is a sum of these


class Answering(_Labels):
    """Point at the answer of an `Asking`: two softmaxes over its tokens, for start and end.

    The tokens that may be pointed at are asked, each with 2 outputs; their targets say whether the
    answer begins (1) or ends (2) there. Without an answer both point at the null token. The loss
    of a text is -log p(start) - log p(end).
    Source: Devlin et al. (2019), sections 4.2 and 4.3; source note 2, "Training".
    """

    def passes(self, rows: _LabelledRows, generator: torch.Generator) -> tuple[Batch]:
        asked = torch.zeros_like(rows.rows.valid)
        targets = torch.zeros_like(rows.rows.tokens)
        for row, document in enumerate(rows.documents):
            asked[row, : len(document.ids)] = document.candidates
            asked[row, document.null] = True
            first, last = document.answer or (document.null, document.null)
            targets[row, first] += BEGINS
            targets[row, last] += ENDS
        return (self._batch(rows.rows, asked, targets[asked], float(len(asked))),)

    def nll(self, logits: Tensor, batch: Batch) -> Tensor:
        """-log p(start) - log p(end), nats (N,): at the tokens where the answer begins or ends."""
        logits = logits[batch.asked] if logits.dim() == 3 else logits
        logits = in_full(logits)
        spread = logits.new_full((*batch.asked.shape, 2), -torch.inf)
        spread[batch.asked] = logits
        log_p = (spread - spread.logsumexp(1, keepdim=True))[batch.asked]
        begins, ends = (batch.targets & bit > 0 for bit in (BEGINS, ENDS))
        return -(log_p[:, 0].where(begins, 0.0) + log_p[:, 1].where(ends, 0.0))


class Classifying(_Labels):
    """Name the class of a `Labelled` text, once, when it has been read.

    Which state answers is the model's affair (`heads.SequenceClassifier`).
    """

    def passes(self, rows: _LabelledRows, generator: torch.Generator) -> tuple[Batch]:
        asked = rows.rows.valid & (rows.rows.from_end == 0)
        targets = torch.tensor([document.label for document in rows.documents])
        return (self._batch(rows.rows, asked, targets, float(len(targets))),)
