"""Answers to questions, compared as SQuAD does: without case, punctuation and articles."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

ARTICLES = re.compile(r"\b(a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)  # ASCII's only, as in the script


def normalise(text: str) -> str:
    """A text in lower case without punctuation and articles, words separated by one space.

    In this order, like the official script: "a.m." becomes "am" and stays, "A." goes. Raises
    `TypeError` for what is no string.

    Source: evaluate-v2.0.py of Rajpurkar, Jia and Liang, "Know What You Don't Know: Unanswerable
    Questions for SQuAD" (2018); v1.1's is the same.

    >>> normalise("The  U.S. Army's a-team")
    'us armys ateam'
    """
    if not isinstance(text, str):
        raise TypeError(f"expected a string, got {type(text).__name__} {text!r}")
    bare = text.lower().translate(NO_PUNCTUATION)
    return " ".join(ARTICLES.sub(" ", bare).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1.0 if the prediction equals one of the accepted answers after `normalise`, else 0.0.

    Answers that normalise to nothing are left out; if none is left (also for ``()`` and
    ``("",)``) the question has no answer, and only a prediction that normalises to nothing is
    right. Raises `TypeError` for a single string or another form of ``answers``.

    Sources: Rajpurkar et al., "SQuAD: 100,000+ Questions for Machine Comprehension of Text"
    (2016); questions without answer as in SQuAD 2.0 (2018).

    >>> exact_match("the Eiffel Tower!", ["Eiffel tower", "La tour Eiffel"])
    1.0
    >>> exact_match("", [])
    1.0
    """
    return _best(_same, prediction, answers)


def token_f1(prediction: str, answers: Sequence[str]) -> float:
    """F1 (0..1) of the prediction's words and an accepted answer's, the best over the answers.

    Words are compared after `normalise`, without order, each as often as it stands. No answer and
    errors: as in `exact_match`.

    Source: as `exact_match`.

    >>> token_f1("Eiffel Tower in Paris", ["the Eiffel Tower", "Paris"])
    0.6666666666666666
    """
    return _best(_overlap, prediction, answers)


def _best(measure: Callable[[str, str], float], prediction: str, answers: Sequence[str]) -> float:
    # A string would be read as its characters; a dictionary (the form of Hugging Face's SQuAD) as
    # its keys.
    if isinstance(answers, str) or not isinstance(answers, Sequence):
        raise TypeError(f"answers are a list of strings, got {type(answers).__name__} {answers!r}")
    # As in evaluate-v2.0.py: an answer such as "The" would make an empty prediction right.
    accepted = [text for text in map(normalise, answers) if text] or [""]
    said = normalise(prediction)
    return max(measure(said, text) for text in accepted)


def _same(said: str, wanted: str) -> float:
    return float(said == wanted)


def _overlap(said: str, wanted: str) -> float:
    ours, theirs = said.split(), wanted.split()
    if not ours or not theirs:
        return float(ours == theirs)
    common = (Counter(ours) & Counter(theirs)).total()
    return 2 * common / (len(ours) + len(theirs))
