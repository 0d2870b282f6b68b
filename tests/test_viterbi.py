"""Viterbi over BIO tags: all sequences written out are the reference."""

import itertools

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mylib.grammar import TAGS
from mylib.heads import bio_steps, viterbi

SLOW = [HealthCheck.too_slow]  # a busy machine is no bug

KINDS = ["PER", "LOC", "ORG"]


def allowed(tags):
    """The rule in words: an I-x stands behind a B-x or an I-x."""
    return all(
        not tag.startswith("I-") or (n > 0 and tags[n - 1] in ("B-" + tag[2:], tag))
        for n, tag in enumerate(tags)
    )


def score(log_probs, tags, sequence):
    return sum(float(log_probs[n, tags.index(tag)]) for n, tag in enumerate(sequence))


@st.composite
def problems(draw):
    tags = draw(st.permutations(TAGS))[: draw(st.integers(1, 7))]
    words = draw(st.integers(1, 4 if len(tags) > 5 else 5))
    numbers = st.one_of(st.floats(-8, 0), st.just(-torch.inf), st.sampled_from([-1.0, -2.0]))
    row = st.lists(numbers, min_size=len(tags), max_size=len(tags))
    rows = draw(st.lists(row, min_size=words, max_size=words))
    return list(tags), torch.tensor(rows, dtype=torch.float64)


@settings(max_examples=150, deadline=None, suppress_health_check=SLOW)
@given(problems())
def test_it_finds_the_best_of_all_sequences(problem):
    tags, log_probs = problem
    every = [s for s in itertools.product(tags, repeat=len(log_probs)) if allowed(s)]
    scores = [score(log_probs, tags, sequence) for sequence in every]
    if max(scores, default=-torch.inf) == -torch.inf:
        with pytest.raises(ValueError, match="no sequence of tags"):
            viterbi(log_probs, tags)
        return
    found = viterbi(log_probs, tags)
    assert allowed(found)
    assert score(log_probs, tags, found) == pytest.approx(max(scores), abs=1e-9)


@settings(max_examples=50, deadline=None, suppress_health_check=SLOW)
@given(st.integers(0, 10_000), st.integers(1, 12))
def test_it_is_the_argmax_where_that_is_allowed_and_valid_always(seed, words):
    log_probs = torch.randn(words, len(TAGS), generator=torch.Generator().manual_seed(seed))
    log_probs = (3 * log_probs).log_softmax(-1)
    found = viterbi(log_probs, TAGS)
    best = [TAGS[k] for k in log_probs.argmax(-1).tolist()]
    assert len(found) == words and allowed(found)
    if allowed(best):
        assert found == best
    else:
        assert score(log_probs, list(TAGS), found) < score(log_probs, list(TAGS), best)
    # A constant at a word changes nothing.
    moved = log_probs + torch.linspace(-30, -1, words)[:, None]
    assume(score(log_probs, list(TAGS), found) == pytest.approx(0, abs=1e3))
    assert viterbi(moved.double(), TAGS) == viterbi(log_probs.double(), TAGS)


def test_two_word_names():
    """The second word alone would be I-LOC; the name as a whole is a person's."""
    p = torch.tensor([[0.1, 0.7, 0.0, 0.2, 0.0], [0.0, 0.0, 0.45, 0.0, 0.55]])
    tags = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    assert viterbi(p.log(), tags) == ["B-PER", "I-PER"]


def test_all_steps_of_all_pairs():
    tags = ["O", *[f"{place}-{kind}" for kind in KINDS for place in "BI"]]
    first, after = bio_steps(tags)
    assert first.dtype == after.dtype == torch.bool
    for i, tag in enumerate(tags):
        assert first[i] == allowed([tag])
        for j, then in enumerate(tags):
            assert after[i, j] == (not then.startswith("I-") or tag[2:] == then[2:]), (tag, then)
    # A kind whose name holds a hyphen, and one without a name, are no "O".
    _, after = bio_steps(["O", "B-", "I-", "B-a-b", "I-a-b"])
    assert after.int().tolist() == [
        [1, 1, 0, 1, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 1, 1],
        [1, 1, 0, 1, 1],
    ]


@pytest.mark.parametrize("tag", ["PER", "E-PER", "o", "", "b-PER", "BPER", "O-PER"])
def test_tags_that_are_not_bio_are_refused(tag):
    with pytest.raises(ValueError, match=f"tag 1 is {tag!r}"):
        bio_steps(["O", tag])
    with pytest.raises(ValueError, match="BIO tags are O, B-x and I-x"):
        viterbi(torch.zeros(1, 2), ["O", tag])


@pytest.mark.parametrize(
    ("log_probs", "message"),
    [
        (torch.zeros(2, 3), r"\(words, 2 tags\), got \(2, 3\)"),
        (torch.zeros(2), r"\(words, 2 tags\)"),
        (torch.zeros(1, 2, 2), r"\(words, 2 tags\)"),
        (torch.tensor([[0.0, torch.nan]]), "NaN"),
        (torch.tensor([[0.0, torch.inf], [0.0, 0.0]]), "inf"),
        (torch.tensor([[-torch.inf, 0.0]]), "no sequence of tags that BIO allows"),
        (torch.full((3, 2), -torch.inf), "no sequence of tags that BIO allows"),
    ],
)
def test_numbers_that_make_no_sense(log_probs, message):
    with pytest.raises(ValueError, match=message):
        viterbi(log_probs, ["O", "I-PER"])


def test_no_words_no_tags():
    assert viterbi(torch.zeros(0, 7), TAGS) == []
    with pytest.raises(ValueError, match="no sequence"):
        viterbi(torch.zeros(2, 1), ["I-PER"])
