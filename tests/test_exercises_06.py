"""Exercises of chapter 06: the stub is refused, the solution passes, wrong answers are named."""

import copy

import pytest
import torch
from exercise_cells import cell

from mylib.exercises import NotSolved, chapter06
from mylib.heads import choose_threshold

NOTEBOOK = "06-questions.ipynb"


def test_stubs_are_refused():
    for number, name, check in (
        (1, "best", chapter06.check_best_span),
        (2, "judge", chapter06.check_silence),
        (3, "exam", chapter06.check_sets),
    ):
        with pytest.raises(NotSolved, match="write your answer"):
            check(cell(NOTEBOOK, f"exercise-{number}-stub")[name])


def test_solutions_pass(capsys):
    chapter06.check_best_span(cell(NOTEBOOK, "exercise-1-solution")["best_solution"])
    chapter06.check_silence(cell(NOTEBOOK, "exercise-2-solution")["judge_solution"])
    chapter06.check_sets(cell(NOTEBOOK, "exercise-3-solution")["exam_solution"])
    assert capsys.readouterr().out.count("solved") == 3


# -- 6.1 ---------------------------------------------------------------------------------------


def closed(start, end, candidates):
    return (e.masked_fill(~candidates, -torch.inf).log_softmax(0) for e in (start, end))


def jointly(start, end, candidates, *, offset=0, everywhere=False, raw=False):
    inside = list(closed(start, end, candidates))
    pairs = inside[0][:, None] + inside[1][None, :]
    pairs = pairs.masked_fill(~torch.ones_like(pairs).triu(offset).bool(), -torch.inf)
    i, j = divmod(int(pairs.argmax()), len(start))
    if everywhere:
        return i, j, float(start.log_softmax(0)[i] + end.log_softmax(0)[j])
    return i, j, float(start[i] + end[j] if raw else pairs[i, j])


def independent(start, end, candidates):
    start, end = closed(start, end, candidates)
    i, j = int(start.argmax()), int(end.argmax())
    return i, j, float(start[i] + end[j])


def turned(start, end, candidates):
    i, j, log_p = independent(start, end, candidates)
    return min(i, j), max(i, j), log_p


def greedy(start, end, candidates):
    start, end = closed(start, end, candidates)
    i = int(start.argmax())
    j = i + int(end[i:].argmax())
    return i, j, float(start[i] + end[j])


def anywhere(start, end, candidates):
    return jointly(start, end, torch.ones_like(candidates))


@pytest.mark.parametrize(
    ("best", "line"),
    [
        (independent, "each by itself. They are chosen together"),
        (turned, "turned round to look right"),
        (greedy, "another pair is likelier"),
        (anywhere, "leaves the text"),
        (lambda *a: jointly(*a, offset=1), "may be a single token"),
        (lambda *a: jointly(*a, everywhere=True), "pads are in the softmax"),
        (lambda *a: jointly(*a, raw=True), "sum of the logits"),
        (lambda *a: jointly(*a)[:2], "return three things"),
        (lambda s, e, c: (3, 2, 0.0), "the end stands before the start"),
        (lambda s, e, c: 1 / 0, "stopped with ZeroDivisionError"),
    ],
)
def test_wrong_spans_are_named(best, line):
    with pytest.raises(NotSolved, match=line):
        chapter06.check_best_span(best)


# -- 6.2 ---------------------------------------------------------------------------------------


def judge(dev, test, *, by=lambda q: q["span"] - q["null"], on="dev", threshold=None):
    def window(question):
        place = int(by(question).argmax())
        margin = question["span"][place] - question["null"][place]
        return float(margin), question["text"][place]

    chosen = {"dev": dev, "test": test}[on]
    tried = [window(question) for question in chosen]
    if threshold is None:
        threshold = choose_threshold(
            torch.tensor([margin for margin, _ in tried]),
            torch.tensor([float(t == q["gold"]) for (_, t), q in zip(tried, chosen, strict=True)]),
            torch.tensor([float(q["gold"] == "") for q in chosen]),
        )
    return [text if margin > threshold else "" for margin, text in map(window, test)]


def always_wins(dev, test):
    """The threshold that is best if silence never is right."""
    tried = [float((q["span"] - q["null"]).max()) for q in dev]
    return judge(dev, test, threshold=min(tried) - 1)


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (lambda d, t: judge(d, t, on="test"), "chosen on the test set"),
        (lambda d, t: judge(d, t, by=lambda q: q["span"]), "windows are compared raw"),
        (lambda d, t: judge(d, t, by=lambda q: -q["null"]), "windows are compared raw"),
        (
            lambda d, t: judge(d, t, threshold=0.0),
            "your threshold does not depend on `dev`: nothing was chosen on it",
        ),
        (always_wins, "another threshold is better"),
        (lambda d, t: [""] * len(t), "you never answer"),
        (lambda d, t: ["x"], "return a list of 40 strings"),
        (lambda d, t: None, "return a list of 40 strings"),
        (lambda d, t: d[0]["missing"], "stopped with KeyError"),
    ],
)
def test_wrong_silences_are_named(answer, line):
    with pytest.raises(NotSolved, match=line):
        chapter06.check_silence(answer)


# -- 6.3 ---------------------------------------------------------------------------------------


@pytest.fixture
def exam():
    return copy.deepcopy(cell(NOTEBOOK, "exercise-3-solution")["exam_solution"])


ASK = "What troubles the writer?"
BEHIND = [
    (ASK, "The cough and the bell: the first troubles me.", "cough"),
    (ASK, "The cough and the bell: the second troubles me.", "bell"),
] * 2


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("level", BEHIND, "opening gains here. A causal reader, .* at most 50%"),
        ("level", BEHIND[:2], "two pairs or more"),
        ("level", [(ASK, "The cough.", "cough"), (ASK, "The bell.", "bell")] * 2, "give it away"),
        ("level", [(ASK, "The cough.", "toe")] * 4, "one word that stands once"),
        ("level", ["x"] * 4, "three strings"),
        ("order", BEHIND, "one and the same text"),
        ("gain", {"level": 5, "order": 0}, "does not always add 5 to 10"),
        ("gain", {"level": 0, "order": 50}, "does see the question, if it stands in front"),
        ("gain", 0, "gain has"),
        ("sees", {}, "sees has the keys"),
    ],
)
def test_wrong_exams_are_named(exam, key, value, line):
    exam[key] = value
    with pytest.raises(NotSolved, match=line):
        chapter06.check_sets(exam)


@pytest.mark.parametrize(
    ("place", "line"),
    [
        (("causal", "first"), "a causal reader never sees the question"),
        (("causal", "last"), "through no number of layers"),
        (("open", "last"), "every word reaches every word"),
    ],
)
def test_wrong_views_are_named(exam, place, line):
    exam["sees"][place] = not exam["sees"][place]
    with pytest.raises(NotSolved, match=line):
        chapter06.check_sets(exam)


def test_an_order_whose_evidence_stands_behind(exam):
    text = "The cough and the bell: the first troubles me."
    other = "The cough and the bell: the second troubles me."
    bear = "What can the writer bear?"
    exam["order"] = [
        (ASK, text, "cough"),
        (bear, text, "bell"),
        (ASK, other, "bell"),
        (bear, other, "cough"),
    ]
    with pytest.raises(NotSolved, match=r"even with the question in front .* at most 50%"):
        chapter06.check_sets(exam)


def test_two_questions_that_want_one_word(exam):
    text = "What troubles me is the cough; I can bear the bell."
    exam["order"] = [(ASK, text, "cough"), ("What troubles the reader?", text, "cough")] * 2
    with pytest.raises(NotSolved, match="another one is right"):
        chapter06.check_sets(exam)


def test_texts_that_are_built_alike_may_decide_by_the_place_alone(exam, capsys):
    """Hint 2: the deciding words stand behind the first answer, and nothing is lost by it."""
    cold = "The cold troubles me; I can bear the noise."
    noise = "The noise troubles me; I can bear the cold."
    exam["level"] = [(ASK, cold, "cold"), (ASK, noise, "noise")] * 2
    chapter06.check_sets(exam)
    assert "solved" in capsys.readouterr().out
