"""Answers: the hard cases by hand, all others against torchmetrics' SQuAD."""

import random
import string

import hypothesis.strategies as st
import pytest
from hypothesis import given
from torchmetrics.functional.text import squad

from mylib.metrics import exact_match, normalise, token_f1

WORDS = ("the", "a", "An", "The", "Tower", "tower,", "of", "Paris", "U.S.", "a.m.", "-", "—", "É")

texts = st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join)
lists = st.lists(texts, max_size=4)


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("", ""),
        ("The Tower", "tower"),
        ("  a\tTOWER \n", "tower"),
        ("an a the", ""),
        ("theatre Anna", "theatre anna"),  # articles are whole words
        ("U.S.A.", "usa"),
        ("A.", ""),  # punctuation goes first, and leaves an article
        ("a.m.", "am"),
        ("the-tower", "thetower"),  # joined by then, so no article
        ("1,000.5 $", "10005"),
        ("l’été — “a”", "l’été — “ ”"),  # only ASCII's punctuation; "a" between quotes is a word
        ("ÉCOLE", "école"),
        ("one\u00a0\u2003two", "one two"),  # any white space
        (string.punctuation, ""),
    ],
)
def test_normalise(text, bare):
    assert normalise(text) == bare


@given(st.text())
def test_normalised_texts_stay(text):
    once = normalise(text)
    assert once == " ".join(once.split()) and not set(once) & set(string.punctuation)
    assert not {"a", "an", "the"} & set(once.split(" "))
    assert normalise(f" the {text} !") == once


@pytest.mark.parametrize(
    ("prediction", "answers", "exact", "f1"),
    [
        ("Eiffel Tower", ["the Eiffel Tower!"], 1, 1),
        ("in Paris", ["Paris"], 0, 2 / 3),
        ("Paris Paris", ["Paris"], 0, 2 / 3),  # a word counts as often as it stands
        ("Paris, Paris", ["Paris Paris Paris"], 0, 4 / 5),
        ("tower Eiffel", ["Eiffel tower"], 0, 1),  # F1 has no order
        ("Rome", ["Paris"], 0, 0),
        ("Paris", ["Rome", "the city of Paris", "Paris."], 1, 1),  # the best of several
        ("city Paris", ["Rome", "the city of Paris", "Paris"], 0, 4 / 5),
        ("", [], 1, 1),  # no answer, and none given
        ("", [""], 1, 1),
        ("", (), 1, 1),
        ("the", [""], 1, 1),  # nothing but an article
        ("Paris", [], 0, 0),
        ("Paris", [""], 0, 0),
        ("", ["Paris"], 0, 0),
        ("the", ["Paris"], 0, 0),
        ("Paris", ["", "Paris"], 1, 1),
    ],
)
def test_scores_by_hand(prediction, answers, exact, f1):
    assert exact_match(prediction, answers) == exact
    assert token_f1(prediction, answers) == f1
    assert type(exact_match(prediction, answers)) is type(token_f1(prediction, answers)) is float


@given(texts, lists)
def test_scores_hang_together(prediction, answers):
    exact, f1 = exact_match(prediction, answers), token_f1(prediction, answers)
    assert exact in (0.0, 1.0) and exact <= f1 <= 1.0
    assert f1 == token_f1(prediction, tuple(reversed(answers))) == token_f1(prediction, answers * 2)
    for score in (exact_match, token_f1):
        if normalise(prediction):
            # with one more accepted answer nobody is worse, and its giver is right
            assert score(prediction, [*answers, "Rome"]) >= score(prediction, answers)
            assert score(prediction, [*answers, prediction]) == 1.0
    if len(answers) == 1 and normalise(answers[0]):
        assert token_f1(answers[0], [prediction]) == f1  # overlap has no direction


# -- parity with torchmetrics ---------------------------------------------------------------------


def torchmetrics_scores(prediction, answers):
    found = squad(
        [{"prediction_text": prediction, "id": "1"}],
        [{"answers": {"text": list(answers), "answer_start": [0] * len(answers)}, "id": "1"}],
    )
    return found["exact_match"].item() / 100, found["f1"].item() / 100


def drawn(n):
    chance = random.Random(0)

    def text():
        return " ".join(chance.choices(WORDS, k=chance.randint(0, 6)))

    return [(text(), [text() for _ in range(chance.randint(1, 3))]) for _ in range(n)]


def test_parity_on_1000_answers():
    seen = set()
    for prediction, answers in drawn(1000):
        # torchmetrics keeps answers that normalise to nothing beside others, see the next test
        if any(map(normalise, answers)):
            answers = [answer for answer in answers if normalise(answer)]
        exact, f1 = torchmetrics_scores(prediction, answers)
        assert exact_match(prediction, answers) == exact
        # It computes in float32; F1 of up to 6 + 6 words is a fraction of 12 at most, so that
        # whatever is this close is equal.
        assert token_f1(prediction, answers) == pytest.approx(f1, abs=1e-6)
        seen.add((exact, round(f1, 4)))
    assert len(seen) > 15 and (0.0, 1.0) in seen and (1.0, 1.0) in seen


def test_where_torchmetrics_differs_from_the_official_script():
    # evaluate-v2.0.py leaves out accepted answers that normalise to nothing, if others remain:
    #     gold_answers = [a["text"] for a in qa["answers"] if normalize_answer(a["text"])]
    # torchmetrics keeps them, so that saying nothing is right.
    assert torchmetrics_scores("", ["the", "the Who"]) == (1.0, 1.0)
    assert exact_match("", ["the", "the Who"]) == token_f1("", ["the", "the Who"]) == 0.0
    # ... and reads no answers as [""]. torchmetrics cannot score such a question.
    with pytest.raises(ValueError):
        torchmetrics_scores("", [])
    assert exact_match("", []) == token_f1("", []) == 1.0
    # (evaluate-v1.1.py has no questions without answer; its F1 of "the" and "A" would be 0.)


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("score", [exact_match, token_f1])
def test_what_is_refused(score):
    with pytest.raises(TypeError, match="a list of strings, got str 'Paris'"):
        score("P", "Paris")  # one of its characters would be right
    with pytest.raises(TypeError, match="a list of strings, got dict"):
        score("text", {"text": ["Paris"], "answer_start": [0]})  # the form of Hugging Face's SQuAD
    with pytest.raises(TypeError, match="a list of strings, got NoneType"):
        score("Paris", None)
    with pytest.raises(TypeError, match="expected a string, got int 3"):
        score("Paris", ["Paris", 3])
    with pytest.raises(TypeError, match="expected a string, got NoneType None"):
        score(None, ["Paris"])
