"""Entities: the hard cases by hand, all others against seqeval."""

import random
from dataclasses import FrozenInstanceError

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from seqeval.metrics.v1 import precision_recall_fscore_support
from seqeval.scheme import IOB2

from mylib.metrics import (
    Scores,
    bootstrap_over,
    entity_counts,
    entity_f1,
    f1_of,
    is_tag,
    paired_difference,
    token_accuracy,
)
from mylib.metrics.entities import entities

TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-creative-work", "I-creative-work")

documents = st.lists(st.sampled_from(TAGS), max_size=12)


def pairs():
    """Documents with two taggings of the same words."""
    both = st.tuples(st.sampled_from(TAGS), st.sampled_from(TAGS))
    corpora = st.lists(st.lists(both, max_size=8), max_size=6)
    return corpora.map(
        lambda corpus: (
            [[one for one, _ in words] for words in corpus],
            [[other for _, other in words] for words in corpus],
        )
    )


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("", []),
        ("O O", []),
        ("B-PER", [("PER", 0, 0)]),
        ("O B-PER I-PER I-PER", [("PER", 1, 3)]),
        ("B-PER B-PER", [("PER", 0, 0), ("PER", 1, 1)]),
        ("B-PER I-PER B-PER I-PER", [("PER", 0, 1), ("PER", 2, 3)]),
        ("I-PER I-PER O", []),  # no B- before
        ("O I-PER", []),
        ("B-PER O I-PER", [("PER", 0, 0)]),  # O ends it; this I- goes on with nothing
        ("B-PER I-LOC", [("PER", 0, 0)]),  # another type ends it and begins nothing ...
        ("B-PER I-LOC I-LOC", [("PER", 0, 0)]),  # ... nor does what follows
        ("B-PER I-LOC I-PER", [("PER", 0, 0)]),  # nor does the first type come back
        ("B-PER B-LOC I-PER", [("PER", 0, 0), ("LOC", 1, 1)]),
        ("I-PER B-PER I-PER", [("PER", 1, 2)]),
        ("B-creative-work I-creative-work", [("creative-work", 0, 1)]),
        ("B-I-x I-I-x", [("I-x", 0, 1)]),  # a type may look like a tag
        ("B-O I-O O", [("O", 0, 1)]),
    ],
)
def test_entities(tags, found):
    assert entities(tags.split()) == found
    assert entities(tuple(tags.split())) == found


@given(documents)
def test_every_b_begins_one_entity(tags):
    found = entities(tags)
    assert [first for _, first, _ in found] == [
        place for place, tag in enumerate(tags) if tag.startswith("B-")
    ]
    for kind, first, last in found:
        assert tags[first : last + 1] == [f"B-{kind}"] + [f"I-{kind}"] * (last - first)
        assert tags[last + 1 : last + 2] != [f"I-{kind}"]  # as long as can be


# -- scores ---------------------------------------------------------------------------------------


def test_scores_by_hand():
    gold = [["B-PER", "I-PER", "O", "B-LOC"], ["B-LOC", "O"], ["O"]]
    predicted = [["B-PER", "I-PER", "O", "B-PER"], ["B-LOC", "I-LOC"], ["B-ORG"]]
    scores = entity_f1(gold, predicted)
    assert (scores.right, scores.predicted, scores.gold) == (1, 4, 3)
    assert (scores.precision, scores.recall, scores.f1) == (1 / 4, 1 / 3, 2 / 7)
    assert scores.per_type == {
        "LOC": Scores(0.0, 0.0, 0.0, right=0, predicted=1, gold=2),
        "ORG": Scores(0.0, 0.0, 0.0, right=0, predicted=1, gold=0),
        "PER": Scores(0.5, 1.0, 2 / 3, right=1, predicted=2, gold=1),
    }
    assert list(scores.per_type) == ["LOC", "ORG", "PER"]
    assert entity_counts(gold, predicted).tolist() == [[1, 2, 2], [0, 1, 1], [0, 1, 0]]
    assert token_accuracy(gold, predicted) == 4 / 7


def test_nothing_to_find_or_nothing_found():
    tagged, bare = [["B-PER", "O"]], [["O", "O"]]
    for gold, predicted in [([], []), ([[]], [[]]), (bare, bare), (tagged, bare), (bare, tagged)]:
        scores = entity_f1(gold, predicted)
        assert (scores.precision, scores.recall, scores.f1, scores.right) == (0.0, 0.0, 0.0, 0)
    assert entity_f1(bare, bare).per_type == {}
    assert set(entity_f1(bare, tagged).per_type) == set(entity_f1(tagged, bare).per_type) == {"PER"}
    assert token_accuracy([], []) == token_accuracy([[]], [[]]) == 0.0
    counts = entity_counts([], [])
    assert counts.shape == (0, 3) and counts.dtype == torch.int64


def test_equal_words_at_other_places_are_not_right():
    # One entity each in two documents, swapped: counted over a whole corpus they must not meet.
    assert entity_f1([["B-x", "O"], ["O", "B-x"]], [["O", "B-x"], ["B-x", "O"]]).right == 0
    assert entity_f1([["B-x"], ["O"]], [["O"], ["B-x"]]).right == 0


def test_scores_are_frozen_and_say_what_they_are():
    scores = entity_f1([["B-PER"]], [["B-PER"]])
    assert str(scores) == (
        "F1 1.000 (precision 1.000, recall 1.000; 1 right of 1 predicted and 1 gold)"
    )
    with pytest.raises(FrozenInstanceError):
        scores.f1 = 0.5
    assert hash(scores) == hash(entity_f1([["B-PER"]], [["B-PER"]]))
    assert scores != entity_f1([["B-LOC"]], [["B-LOC"]])  # the types differ


@given(pairs())
def test_scores_hang_together(both):
    gold, predicted = both
    scores, mirrored = entity_f1(gold, predicted), entity_f1(predicted, gold)
    assert (scores.precision, scores.recall) == (mirrored.recall, mirrored.precision)
    assert scores.f1 == mirrored.f1
    assert 0 <= scores.right <= min(scores.predicted, scores.gold)
    for name in ("right", "predicted", "gold"):
        parts = [getattr(one, name) for one in scores.per_type.values()]
        assert getattr(scores, name) == sum(parts)
    totals = entity_counts(gold, predicted).sum(0)
    assert totals.tolist() == [scores.right, scores.predicted, scores.gold]
    assert float(f1_of(totals)) == scores.f1
    itself = entity_f1(gold, gold)
    assert itself.f1 == float(itself.gold > 0)
    if any(gold):
        assert token_accuracy(gold, gold) == 1.0


def test_f1_of_counts():
    counts = torch.tensor([[[1, 2, 1], [0, 0, 0]], [[0, 3, 0], [5, 5, 5]]])
    found = f1_of(counts)
    assert found.dtype == torch.float64
    assert found.tolist() == [[2 / 3, 0.0], [0.0, 1.0]]
    assert f1_of(torch.zeros(0, 3)).shape == (0,)
    for odd in (torch.zeros(3, 2), torch.zeros(()), torch.zeros(3, 0)):
        with pytest.raises(ValueError, match=r"counts are \(\.\.\., 3\).*got \("):
            f1_of(odd)


def test_intervals_of_f1():
    chance = random.Random(0)
    gold = [chance.choices(TAGS, k=10) for _ in range(60)]
    copied = [[t if chance.random() < 0.9 else "O" for t in tags] for tags in gold]
    counts = entity_counts(gold, copied)
    found = bootstrap_over(counts, f1_of, draws=500)
    assert found.mean == pytest.approx(entity_f1(gold, copied).f1, abs=1e-15)
    assert found.low < found.mean < found.high
    # micro F1 is not the mean of the documents' F1
    assert abs(found.mean - float(f1_of(counts).mean())) > 1e-3
    better = paired_difference(entity_counts(gold, gold), counts, f1_of, draws=500)
    assert better.low > 0 and better.mean == pytest.approx(1 - found.mean)


# -- parity with seqeval --------------------------------------------------------------------------


def drawn(seed, documents):
    """Gold and predicted tags, at random; a prediction keeps most of the gold tags."""
    chance = random.Random(seed)
    gold = [chance.choices(TAGS, k=chance.randint(0, 14)) for _ in range(documents)]
    kept = [[t if chance.random() < 0.7 else chance.choice(TAGS) for t in tags] for tags in gold]
    return gold, kept


def seqeval_scores(gold, predicted, average):
    return precision_recall_fscore_support(
        gold, predicted, average=average, scheme=IOB2, zero_division=0
    )


def assert_parity(gold, predicted):
    ours = entity_f1(gold, predicted)
    precision, recall, f1, wanted = seqeval_scores(gold, predicted, "micro")
    assert (ours.precision, ours.recall, ours.gold) == (precision, recall, wanted)
    # 2 P R / (P + R) there, 2 right / (predicted + gold) here: equal but for rounding
    assert ours.f1 == pytest.approx(f1, rel=4e-16)
    rows = zip(*seqeval_scores(gold, predicted, None), strict=True)
    for one, (precision, recall, f1, wanted) in zip(ours.per_type.values(), rows, strict=True):
        assert (one.precision, one.recall, one.gold) == (precision, recall, wanted)
        assert one.f1 == pytest.approx(f1, rel=4e-16)


def test_the_random_documents_are_also_invalid_ones():
    gold, predicted = drawn(0, 1000)
    for corpus in (gold, predicted):
        steps = [pair for tags in corpus for pair in zip(["O", *tags], tags, strict=False)]
        orphans = [pair for pair in steps if pair[0] == "O" and pair[1].startswith("I-")]
        changes = [
            (before, tag)
            for before, tag in steps
            if before != "O" and tag.startswith("I-") and before[2:] != tag[2:]
        ]
        assert sum(tags[:1] in (["I-PER"], ["I-LOC"]) for tags in corpus) > 100
        assert len(orphans) > 300 and len(changes) > 300
        assert [] in corpus


def test_parity_on_each_of_1000_documents():
    for gold, predicted in zip(*drawn(0, 1000), strict=True):
        assert_parity([gold], [predicted])


def test_parity_on_the_corpus():
    assert_parity(*drawn(0, 1000))
    assert_parity(*drawn(1, 50))


@given(pairs())
def test_parity_on_what_hypothesis_finds(both):
    if both[0]:  # seqeval refuses an empty list of documents
        assert_parity(*both)


# -- what is refused ------------------------------------------------------------------------------

CALLS = [entity_f1, entity_counts, token_accuracy]


@pytest.mark.parametrize("measure", CALLS)
def test_documents_that_do_not_fit(measure):
    with pytest.raises(ValueError, match="2 gold documents, but 1 predicted ones"):
        measure([["O"], ["O"]], [["O"]])
    with pytest.raises(ValueError, match="document 1 has 2 gold tags, but 3 predicted ones"):
        measure([["O"], ["O", "O"]], [["O"], ["O", "O", "O"]])


@pytest.mark.parametrize(
    "tag", ["PER", "B-", "I-", "b-PER", "E-PER", "S-PER", "B", "", "o", 3, None]
)
def test_unknown_tags(tag):
    assert not is_tag(tag)
    with pytest.raises(
        ValueError, match=rf"the document has the tag {tag!r} at 1, expected O, B-x"
    ):
        entities(["O", tag])
    for measure in CALLS:
        with pytest.raises(ValueError, match=rf"gold document 1 has the tag {tag!r} at 2"):
            measure([["O"], ["O", "O", tag]], [["O"], ["O", "O", "O"]])
        with pytest.raises(ValueError, match=rf"predicted document 0 has the tag {tag!r} at 0"):
            measure([["O"]], [[tag]])


@pytest.mark.parametrize("measure", CALLS)
def test_strings_in_place_of_lists(measure):
    # each would be read as its characters, and "O" is a tag
    with pytest.raises(TypeError, match="gold document 0 is the string 'O', expected a list"):
        measure(["O", "O"], ["O", "O"])
    with pytest.raises(TypeError, match="predicted document 0 is the string 'O'"):
        measure([["O"]], ["O"])
    for odd in (("O", ["O"]), (["O"], "O")):
        with pytest.raises(TypeError, match="lists of documents, got a string"):
            measure(*odd)
    with pytest.raises(TypeError, match="the document is the string 'O'"):
        entities("O")
