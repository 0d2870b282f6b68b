"""Named entities in BIO tags, right only if type, first and last word are right.

D documents (or sentences). A document is a list of tags: O, B-x or I-x, where x is a type.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scores:
    """Precision, recall and F1 (shares, 0..1) with the counts of entities behind them."""

    precision: float
    recall: float
    f1: float
    right: int
    predicted: int
    gold: int

    def __str__(self) -> str:
        return (
            f"F1 {self.f1:.3f} (precision {self.precision:.3f}, recall {self.recall:.3f}; "
            f"{self.right} right of {self.predicted} predicted and {self.gold} gold)"
        )


@dataclass(frozen=True)
class EntityScores(Scores):
    """Scores over all entities, and for each type in ``per_type``."""

    per_type: dict[str, Scores] = field(hash=False)


def is_tag(tag: object) -> bool:
    """Whether this is a BIO tag: O, B-x or I-x with some type x.

    >>> [is_tag(tag) for tag in ("O", "B-PER", "I-creative-work", "PER", "B-", "E-PER")]
    [True, True, True, False, False, False]
    """
    return isinstance(tag, str) and (tag == "O" or (tag[:2] in ("B-", "I-") and len(tag) > 2))


def entities(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """The entities (type, first word, last word) of one document's tags (IOB2, strictly).

    B-x begins an entity, and I-x behind B-x or I-x goes on with it. Any other I-x begins none,
    and the I-x behind that one neither. Raises `ValueError` for another form of tag and
    `TypeError` for a string in place of a list.

    Source: Nakayama, "seqeval" (2018), mode="strict", scheme=IOB2.

    >>> entities(["B-PER", "I-PER", "O", "I-LOC", "B-LOC", "I-PER"])
    [('PER', 0, 1), ('LOC', 4, 4)]
    """
    return _entities(tags, "the document")


def _entities(tags: Sequence[str], where: str) -> list[tuple[str, int, int]]:
    if isinstance(tags, str):
        raise TypeError(f"{where} is the string {tags!r}, expected a list of tags")
    found: list[tuple[str, int, int]] = []
    inside = None  # the type that an I- would go on with
    for place, tag in enumerate(tags):
        if not is_tag(tag):
            raise ValueError(f"{where} has the tag {tag!r} at {place}, expected O, B-x or I-x")
        kind = tag[2:] or None
        if tag.startswith("B-"):
            found.append((kind, place, place))
            inside = kind
        elif kind != inside:
            inside = None
        elif inside:
            found[-1] = (kind, found[-1][1], place)
    return found


def _pairs(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> list[tuple]:
    """The entities of each document, gold and predicted, or what does not fit."""
    if isinstance(gold, str) or isinstance(predicted, str):
        raise TypeError("gold and predicted are lists of documents, got a string")
    if len(gold) != len(predicted):
        raise ValueError(f"{len(gold)} gold documents, but {len(predicted)} predicted ones")
    pairs = []
    for number, (right, guess) in enumerate(zip(gold, predicted, strict=True)):
        pairs.append(
            (
                _entities(right, f"gold document {number}"),
                _entities(guess, f"predicted document {number}"),
            )
        )
        if len(right) != len(guess):
            raise ValueError(
                f"document {number} has {len(right)} gold tags, but {len(guess)} predicted ones"
            )
    return pairs


def entity_f1(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> EntityScores:
    """Precision, recall and F1 of predicted entities, over all of them (micro) and per type.

    ``gold`` and ``predicted``: the tags of the same D documents. An entity is right if `entities`
    finds the same type, first and last word in both. 0/0 is 0.0. Raises `ValueError` for
    different numbers of documents or tags and for another form of tag, `TypeError` for a string
    in place of a list.

    Sources: Tjong Kim Sang and De Meulder, "Introduction to the CoNLL-2003 Shared Task" (2003);
    Nakayama, "seqeval" (2018), mode="strict", scheme=IOB2.

    >>> scores = entity_f1([["B-PER", "I-PER", "O"]], [["B-PER", "I-PER", "B-LOC"]])
    >>> print(scores)
    F1 0.667 (precision 0.500, recall 1.000; 1 right of 2 predicted and 1 gold)
    >>> scores.per_type["PER"].f1
    1.0
    """
    right: Counter[str] = Counter()
    guessed: Counter[str] = Counter()
    wanted: Counter[str] = Counter()
    for one, other in _pairs(gold, predicted):
        right.update(kind for kind, *_ in set(one) & set(other))
        guessed.update(kind for kind, *_ in other)
        wanted.update(kind for kind, *_ in one)
    per_type = {
        kind: Scores(*_shares(right[kind], guessed[kind], wanted[kind]))
        for kind in sorted(guessed | wanted)
    }
    return EntityScores(*_shares(right.total(), guessed.total(), wanted.total()), per_type)


def _shares(right: int, predicted: int, gold: int) -> tuple[float, float, float, int, int, int]:
    f1 = 2 * right / (predicted + gold) if predicted + gold else 0.0
    precision = right / predicted if predicted else 0.0
    recall = right / gold if gold else 0.0
    return precision, recall, f1, right, predicted, gold


def entity_counts(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> Tensor:
    """Entities right, predicted and gold of each document, int64 (D, 3): what F1 is made of.

    For `bootstrap_over` and `paired_difference` with `f1_of`. Raises what `entity_f1` raises.

    >>> entity_counts([["B-PER", "O"], ["O"]], [["B-PER", "B-LOC"], ["O"]]).tolist()
    [[1, 2, 1], [0, 0, 0]]
    """
    rows = [
        (len(set(one) & set(other)), len(other), len(one)) for one, other in _pairs(gold, predicted)
    ]
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, 3)


def f1_of(counts: Tensor) -> Tensor:
    """F1 of counts (..., 3) of entities right, predicted and gold: float64 (...); 0/0 is 0.0.

    Raises `ValueError` for another last size.

    >>> f1_of(torch.tensor([[1, 2, 1], [0, 0, 0]])).tolist()
    [0.6666666666666666, 0.0]
    """
    if counts.dim() == 0 or counts.shape[-1] != 3:
        raise ValueError(
            f"counts are (..., 3): right, predicted and gold; got {tuple(counts.shape)}"
        )
    right, predicted, gold = counts.double().unbind(-1)
    both = predicted + gold
    return torch.where(both > 0, 2 * right / both.where(both > 0, 1.0), 0.0)


def token_accuracy(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> float:
    """The share (0..1) of words whose tag is right, O included; 0.0 without words.

    Most words are O, so a tagger that finds nothing scores high here: report F1 beside it.
    Raises what `entity_f1` raises.

    >>> token_accuracy([["B-PER", "O", "O", "O"]], [["O", "O", "O", "O"]])
    0.75
    """
    _pairs(gold, predicted)  # the same demands as elsewhere
    equal = [
        tag == guess
        for one, other in zip(gold, predicted, strict=True)
        for tag, guess in zip(one, other, strict=True)
    ]
    return sum(equal) / len(equal) if equal else 0.0
