"""Chapter 05: words and their pieces, passing the causal ceiling, strict F1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .. import tokenizer
from ..gazette import Gazette
from ..grammar import TAGS
from ..masks import causal, dense
from ..metrics import entities, entity_f1, is_tag
from ..objectives import Tagged
from ..tasks import likeliest, tag_log_probs, tagged_documents
from . import check, expect

__all__ = ["check_beat", "check_pieces", "check_strict_f1"]


# -- 5.1 ---------------------------------------------------------------------------------------

SENTENCES = (
    ["Ada", "lost", "umbrellas", "in", "Zanzibar", "."],
    ["Zoë", "Smythe-Jones", "came", "from", "Lisbon", "on", "Friday"],
    ["Marlow"],
)


def _own(words: Sequence[str], spans: Sequence[tuple[int, int]]) -> list[list[int]]:
    """The tokens of each word."""
    found, start = [], 0
    for word in words:
        stop = start + len(word)
        found.append([n for n, (a, b) in enumerate(spans) if a < stop and b > start])
        start = stop + 1
    return found


@check("5.1")
def check_pieces(asked_at: Callable[..., Sequence[int]]) -> None:
    """``asked_at(words, spans, reader)``: for each word the token at which ``reader`` is asked."""
    for words in SENTENCES:
        spans = tokenizer.offsets(" ".join(words))
        own = _own(words, spans)
        for reader in ("causal", "open"):
            found = asked_at(list(words), list(spans), reader)
            expect(
                isinstance(found, list | tuple | Tensor),
                "return a list: for each word the number of one token",
            )
            found = [int(place) for place in found]
            if len(found) == len(spans) != len(words):
                expect(
                    False,
                    "every piece is counted as a word of its own: a name of six pieces would be "
                    "six entities. One output for each word",
                )
            expect(
                len(found) == len(words),
                f"{len(words)} words, and you ask at {len(found)} places: one for each word",
            )
            expect(
                all(0 <= place < len(spans) for place in found),
                "a place is the number of a token, from 0 on",
            )
            if found == list(range(len(words))) and len(spans) > len(words):
                expect(False, "word 3 is not token 3: the words before it have pieces, too")
            for word, place, mine in zip(words, found, own, strict=True):
                expect(place in mine, f"{word!r} is asked at a token of another word, or of none")
            first, last = [mine[0] for mine in own], [mine[-1] for mine in own]
            if reader == "causal":
                expect(
                    found != first or first == last,
                    "the causal tagger is asked at the first piece: there it has not read the rest "
                    "of the word, and its mask keeps it from looking. Ask it at the last",
                )
                expect(found == last, "the causal tagger has read a word at its last piece only")
            else:
                expect(
                    found != last or first == last,
                    "the open tagger is asked at the last piece. It would do, but ours is trained "
                    "at the first, as is usual; what it says elsewhere nobody has asked for",
                )
                expect(found == first, "the open tagger is asked at the first piece of each word")


# -- 5.2 ---------------------------------------------------------------------------------------


def kinds(gazette: Gazette, *frames: str) -> Gazette:
    """The same paper with these kinds of brief only."""
    kept = [t for t in gazette.grammar.templates if t.frame in frames]
    total = sum(t.prior for t in kept)
    templates = tuple(replace(t, prior=t.prior / total) for t in kept)
    return Gazette(replace(gazette.grammar, templates=templates))


def _gold(documents: Sequence[Tagged]) -> list[list[str]]:
    return [[TAGS[k] for k in document.tags.tolist()] for document in documents]


@check("5.2")
def check_beat(
    decode: Callable[[Tensor], Sequence[str]], again: Callable[[Tagged], Tagged]
) -> None:
    """``decode``: log p (W, tags) of a causal reader -> tags. ``again``: a document -> another."""
    gazette = Gazette.load()
    _check_decode(gazette, decode)
    texts = kinds(gazette, "lost_person", "rumour").sample(4, torch.Generator().manual_seed(9))
    for document in tagged_documents(gazette, texts):
        _check_again(document, _asked(again, document))


def _asked(again: Callable[[Tagged], Tagged], document: Tagged) -> Tagged:
    try:
        return again(document)
    except ValueError as error:  # `Tagged` refuses two words that are asked at one token
        expect(
            "words stand in order" not in str(error),
            "ask each word at a token of its own, in order",
        )
        raise


def _check_decode(gazette: Gazette, decode: Callable[[Tensor], Sequence[str]]) -> None:
    chance = torch.Generator().manual_seed(8)
    two, one = (
        kinds(gazette, *frames).sample(16, chance) for frames in (("rumour",), ("lost_town",))
    )
    left = tag_log_probs(gazette, two, "left")
    gold = _gold(tagged_documents(gazette, two))
    said = []
    for log_probs in left:
        tags = decode(log_probs.clone())
        expect(
            isinstance(tags, list | tuple) and all(is_tag(tag) for tag in tags),
            "decode returns a list of tags such as 'O', 'B-PER', 'I-PER'",
        )
        expect(len(tags) == len(log_probs), f"{len(log_probs)} words, {len(tags)} tags")
        said.append(list(tags))
    expect(
        said != likeliest(left),
        "your decoding takes each word by itself, and stops at the ceiling, whatever the weights. "
        "The ceiling does not belong to the weights: it belongs to all that may look right, and "
        "decoding may. What does the tag of the second word say about the first?",
    )
    expect(
        any(tag.startswith("I-") for tags in said for tag in tags),
        "no name of two words is left: you turned the second word into something else. It is the "
        "one that knows",
    )
    halves = [(entities(tags), entities(right)) for tags, right in zip(said, gold, strict=True)]
    expect(
        all(len(mine) >= len(right) for mine, right in halves),
        "some I- still stands behind a word of another type, and by the strict rule that is no "
        "entity at all",
    )
    firm = [tags[1] == f"I-{tags[0][2:]}" for tags in said]
    wrong = [tags[:2] != right[:2] for tags, right in zip(said, gold, strict=True)]
    expect(
        not (all(firm) and any(wrong)),
        "your tags fit together, and the wrong word gave in: the first was a guess, the second "
        "is certain",
    )
    expect(said == gold, "not all names of two words are right yet")
    single = tag_log_probs(gazette, one, "left")
    expect(
        [list(decode(each.clone())) for each in single] == likeliest(single),
        "you change names of one word, too. There decoding knows nothing that the reader does not",
    )


def _check_again(before: Tagged, after: Tagged) -> None:
    expect(isinstance(after, Tagged), "again returns a Tagged document")
    expect(torch.equal(after.tags, before.tags), "the words and their tags stay as they are")
    words = before.ids[1:-1]
    expect(
        torch.equal(after.ids[after.last], words) and torch.equal(after.first, after.last),
        "word n must be asked at a token that is word n: one output cannot name all words, and a "
        "word read from the far end is another reader's",
    )
    sees = dense(causal, len(after.ids))[0, 0][after.last]  # (W, T), the mask untouched
    if len(after.ids) == len(before.ids):
        expect(
            False,
            "each word is asked where it always was, and sees what it always saw: no weights "
            "can pass the ceiling here. It belongs to what has been read when the answer is due",
        )
    expect(
        not torch.equal(after.last, before.last),
        "the text stands there again, and you ask in its first reading: nothing to the right has "
        "been read yet",
    )
    whole = [_holds(after.ids[row], words) for row in sees]
    expect(all(whole), "some words are asked before the whole text has been read")


def _holds(read: Tensor, words: Tensor) -> bool:
    """Whether the tokens read so far hold all words, in order."""
    if len(read) < len(words):
        return False
    return bool((read.unfold(0, len(words), 1) == words).all(1).any())


# -- 5.3 ---------------------------------------------------------------------------------------

_SIX = ["B-PER", "I-PER", "O", "B-LOC", "O", "O"]
CASES = {  # gold and predicted documents
    "all right": ([_SIX], [_SIX]),
    "I- without B-": ([["O", "B-PER", "O"]], [["O", "I-PER", "O"]]),
    "right span, wrong type": ([["B-PER", "O", "B-LOC"]], [["B-ORG", "O", "B-LOC"]]),
    "one word short": ([["B-PER", "I-PER", "O"]], [["B-PER", "O", "O"]]),
    "two names side by side": ([["B-PER", "B-PER", "O"]], [["B-PER", "I-PER", "O"]]),
    "type changes inside": ([["B-PER", "I-PER"]], [["B-PER", "I-LOC"]]),
    "documents of different size": (
        [["B-PER", "O"], ["B-LOC", "O", "B-ORG", "O", "B-PER", "B-LOC"]],
        [["B-PER", "O"], ["B-PER", "O", "B-LOC", "O", "B-ORG", "B-ORG"]],
    ),
    "no names at all": ([["O", "O"]], [["O", "O"]]),
}


@check("5.3")
def check_strict_f1(strict_f1: Callable[..., float]) -> None:
    """``strict_f1(gold, said)``: lists of documents, each a list of tags."""
    found = {}
    for name, (gold, said) in CASES.items():
        value = strict_f1([list(tags) for tags in gold], [list(tags) for tags in said])
        expect(isinstance(value, int | float | Tensor), "return a number, F1 from 0 to 1")
        found[name] = float(value)
    right = {name: entity_f1(*case).f1 for name, case in CASES.items()}

    def off(name: str) -> bool:
        return abs(found[name] - right[name]) > 1e-6

    def shown(name: str) -> str:
        gold, said = CASES[name]
        return f"gold {gold}, said {said}: {right[name]:.3f}, not {found[name]:.3f}"

    expect(
        not off("all right"),
        f"all is right there, and F1 is 1: {shown('all right')}. Is O an entity? It is none",
    )
    expect(
        not off("I- without B-"),
        f"an I- that nothing began is no entity, and earns nothing: {shown('I- without B-')}",
    )
    expect(
        not off("right span, wrong type"),
        "the right span with the wrong type earns nothing, not a half: "
        f"{shown('right span, wrong type')}",
    )
    expect(
        not off("one word short"),
        f"a name that ends too early is another name: {shown('one word short')}. Do you count "
        "words? Entities are counted",
    )
    expect(
        not off("two names side by side"),
        f"B- begins a new name, even right behind another: {shown('two names side by side')}",
    )
    expect(
        not off("type changes inside"),
        "an I- of another type does not go on with the name; the name ends before it: "
        f"{shown('type changes inside')}",
    )
    expect(
        not off("documents of different size"),
        "F1 is taken once, of the counts of all documents; the mean of the documents' scores is "
        f"another number: {shown('documents of different size')}",
    )
    expect(
        not off("no names at all"),
        "nothing to find and nothing found: 0/0 is 0.0 here, by agreement",
    )
