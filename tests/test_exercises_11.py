"""Exercises of chapter 11: the stub is refused, the solution passes, wrong answers are named."""

import functools

import pytest
from exercise_cells import cell

from mylib.commands.audit import load
from mylib.exercises import NotSolved, chapter11
from mylib.leaks import audit, certificate

NOTEBOOK = "11-real-text.ipynb"
CHECKS = {
    1: ("compare", chapter11.check_compare),
    2: ("verdict", chapter11.check_audit),
    3: ("diagnose", chapter11.check_diagnose),
}


def test_stubs_are_refused():
    for number, (name, check) in CHECKS.items():
        with pytest.raises(NotSolved, match="write your answer"):
            check(cell(NOTEBOOK, f"exercise-{number}-stub")[name])


def test_solutions_pass(capsys):
    for number, (name, check) in CHECKS.items():
        names = cell(NOTEBOOK, f"exercise-{number}-solution", certificate=certificate)
        check(names[f"{name}_solution"])
    assert capsys.readouterr().out.count("solved") == 3


# -- 11.1 --------------------------------------------------------------------------------------


def comparer(*, masked=False, equal=False, token=False, texts=False, leaky=False, bounds=False):
    """The right answer, with one mistake."""

    def compare(a, b):
        if not leaky and "leak" in (a.mark, b.mark):
            return None
        if not texts and a.text != b.text:
            return None
        if not masked and a.question != b.question:
            return None
        sizes = [each.nats * (1 if token or masked else each.answers) for each in (a, b)]
        lower, higher = (
            (("first", a), ("second", b))
            if sizes[0] < sizes[1]
            else (
                ("second", b),
                ("first", a),
            )
        )
        if higher[1].mark == "bound" and not equal:
            return lower[0] if bounds and lower[1].mark == "bound" else None
        return lower[0]

    return compare


def test_the_right_comparison_passes(capsys):
    chapter11.check_compare(comparer())
    assert "solved" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("compare", "line"),
    [
        (comparer(masked=True), "masked loss is no perplexity"),
        (comparer(equal=True), "bound for an equality"),
        (comparer(bounds=True), "two bounds"),
        (comparer(token=True), "take the total"),
        (comparer(texts=True), "two texts"),
        (comparer(leaky=True), "let a leak win"),
        (lambda a, b: None, "the smaller one is the better"),
        (lambda a, b: "first", "you name different models"),
        (lambda a, b: a.name, "answer .first"),
        (lambda a, b: 1 / 0, "stopped with ZeroDivisionError"),
    ],
)
def test_wrong_comparisons_are_named(compare, line):
    with pytest.raises(NotSolved, match=line):
        chapter11.check_compare(compare)


def test_a_bound_may_win_and_questions_matter():
    def timid(a, b):  # never lets a bound win
        return None if "bound" in (a.mark, b.mark) else comparer()(a, b)

    with pytest.raises(NotSolved, match="does say something"):
        chapter11.check_compare(timid)

    def prices_only(a, b):
        return None if "other" in (a.mark, b.mark) else comparer()(a, b)

    with pytest.raises(NotSolved, match="the same question"):
        chapter11.check_compare(prices_only)

    def any_question(a, b):
        both = a.mark == b.mark == "other"
        return ("first" if a.nats < b.nats else "second") if both else comparer()(a, b)

    with pytest.raises(NotSolved, match="two different questions"):
        chapter11.check_compare(any_question)


# -- 11.2 --------------------------------------------------------------------------------------


@functools.cache
def report(folder):
    return audit(load(folder, None)[0], "bidirectional")


def by_whole(folder):
    """One open path means converted."""
    whole = report(folder).cases["whole model, one row"]
    return "open" if whole.all() else "closed"


def by_line(folder):
    return "open" if report(folder).ok else "closed"


def by_first_layer(folder):
    wrong = {case: pairs.any() for case, pairs in report(folder).wrong.items()}
    first = any(bad for case, bad in wrong.items() if ".0." in case)
    last = any(bad for case, bad in wrong.items() if ".1." in case)
    return "closed" if first and last else "partly" if first else "open"


@pytest.mark.parametrize(
    ("verdict", "line"),
    [
        (by_whole, "one open path does not make"),
        (by_line, "not the same as untouched"),
        (by_first_layer, "a fourth folder"),
        (lambda folder: "partly", "you do not call it closed"),
        (lambda folder: {"north": "closed"}.get(folder.name, "partly"), "every layer of this"),
        (
            lambda folder: {"north": "closed", "south": "open", "middle": "partly"}.get(
                folder.name, "open"
            ),
            "a fourth folder",
        ),
        (lambda folder: report(folder).ok, "answer .open"),
        (lambda folder: 1 / 0, "stopped with ZeroDivisionError"),
    ],
)
def test_wrong_audits_are_named(verdict, line):
    with pytest.raises(NotSolved, match=line):
        chapter11.check_audit(verdict)


def test_the_folders_are_what_they_are_called():
    found = {name: report(folder) for name, folder in chapter11.sealed_folders().items()}
    assert found["south"].ok and not found["north"].ok and not found["middle"].ok
    assert found["middle"].cases["whole model, one row"].all()  # lit, and converted in one layer
    bad = {case.split(", ")[0] for case, pairs in found["middle"].wrong.items() if pairs.any()}
    assert bad == {"layers.0.self_attn"}


# -- 11.3 --------------------------------------------------------------------------------------


def share(train, valid, n):
    def runs(documents):
        return [tuple(d[i : i + n].tolist()) for d in documents for i in range(len(d) - n + 1)]

    seen, mine = set(runs(train)), runs(valid)
    return sum(run in seen for run in mine) / len(mine)


def diagnoser(*, path=True, layers=None, n=8, least=0.02, passages=share):
    def diagnose(case):
        if path and not certificate(case.objective, case.rows, layers or case.layers).sound:
            return "mask"
        return "overlap" if passages(case.train, case.valid, n) > least else "honest"

    return diagnose


def whole_documents(train, valid, n):
    seen = {tuple(text.tolist()) for text in train}
    return sum(tuple(text.tolist()) in seen for text in valid) / len(valid)


def by_mask(case):
    """An open mask is a leak."""
    if case.name in ("beech", "cedar", "hazel"):
        return "mask"
    return diagnoser()(case)


@pytest.mark.parametrize(
    ("diagnose", "line"),
    [
        (lambda case: "honest", "it is just a better model"),
        (diagnoser(least=2), "forgotten that passages"),
        (diagnoser(path=False), "beech"),
        (diagnoser(layers=1), "in one layer no answer is told"),
        (by_mask, "an open mask is no leak"),
        (diagnoser(n=4), "set phrases"),
        (diagnoser(n=1), "set phrases"),
        (diagnoser(least=0.5), "a quarter of the validation words"),
        (diagnoser(passages=whole_documents), "forgotten that passages"),
        (lambda c: "overlap" if c.name == "ash" else diagnoser()(c), "A low curve alone"),
        (lambda c: "honest" if c.name == "elm" else diagnoser()(c), "begin in the middle"),
        (lambda case: "leak", "answer one of"),
        (lambda case: 1 / 0, "stopped with ZeroDivisionError"),
    ],
)
def test_wrong_diagnoses_are_named(diagnose, line):
    with pytest.raises(NotSolved, match=line):
        chapter11.check_diagnose(diagnose)


def test_the_height_of_a_curve_tells_nothing():
    ends = {case.name: case.curve[-1] for case in chapter11.sealed_curves()}
    honest = [end for name, end in ends.items() if chapter11.TRUTH[name] == "honest"]
    others = [end for name, end in ends.items() if chapter11.TRUTH[name] != "honest"]
    assert min(honest) < min(others) < max(honest) < max(others)
