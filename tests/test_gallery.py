"""Side road A1: its three exercises, by the cells of the notebook itself and by wrong answers."""

from functools import partial

import exercise_cells
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mylib import leaks, masks, objectives
from mylib.exercises import NotSolved, gallery
from mylib.leaks import audit, influence, prefix_invariance

cell = partial(exercise_cells.cell, "A1-gallery-of-leaks.ipynb", F=F)


@pytest.fixture(scope="module")
def tools():
    """The names of the set-up, down to the tools."""
    names = {**vars(leaks), **vars(masks), **vars(objectives), "nn": torch.nn}
    return cell("tools", **cell("host", **names))


def test_the_audit_rings_when_too_much_is_seen(tools, capsys):
    def host(mask):
        return tools["Host"](tools["Attention"](mask), tools["Attention"](mask))

    window = masks.sliding_window(1, 0)
    assert not audit(host(masks.causal), "causal").leaks
    too_little = audit(host(window), "causal")
    assert not too_little.ok and not too_little.leaks
    late = masks.Mask(lambda batch, head, query, key: (key > query) & (query > 4), "late")
    both = audit(host(window | late), "causal")
    assert " sees token" in both.leaks[0]  # named before a pair that sees too little
    model = host(masks.causal)
    by_length = audit(lambda ids: model(ids) * ids.shape[1], "causal")
    assert "cut after token" in str(by_length) and by_length.leaks


def test_the_audit_finds_what_a_choice_hides_from_the_gradient(tools, capsys):
    experts = cell("experts", **tools)["broken"]
    assert not influence(experts, tools["ids"], probe="gradient").triu(1).any()
    assert audit(experts, "causal", tools["ids"]).leaks


@pytest.mark.parametrize(
    ("exercise", "answer", "check"),
    [
        ("exercise-1", "causal_convolution", gallery.check_causal_convolution),
        ("exercise-2", "rings", gallery.check_tools),
        ("exercise-3", "looks_ahead", gallery.check_detector),
    ],
)
def test_stub_is_refused_and_solution_accepted(exercise, answer, check, capsys):
    with pytest.raises(NotSolved, match="write your answer"):
        check(cell(f"{exercise}-stub")[answer])
    check(cell(f"{exercise}-solution")[f"{answer}_solution"])
    assert "solved" in capsys.readouterr().out


def padded(left, right, mode="constant", keep=slice(None)):
    """A convolution of width k; ``left`` and ``right`` are functions of k."""

    def convolve(x, weight):
        k = weight.shape[-1]
        wide = F.pad(x.mT, (left(k), right(k)), mode=mode)
        return F.conv1d(wide, weight).mT[:, keep][:, : x.shape[1]]

    return convolve


WRONG_CONVOLUTIONS = {
    "both sides": padded(lambda k: k // 2, lambda k: k - 1 - k // 2),
    "wrong end": padded(lambda k: 0, lambda k: k - 1),
    "comes from the future": padded(lambda k: k - 1, lambda k: 0, "reflect"),
    "own input": padded(lambda k: k, lambda k: 0),
    "one output for each input": lambda x, weight: F.conv1d(x.mT, weight).mT,
    "another layer": lambda x, weight: (
        F.conv1d(F.pad(x.mT, (weight.shape[-1] - 1, 0)), weight.flip(-1)).mT
    ),
    "no input moves": lambda x, weight: torch.zeros_like(x),
}


@pytest.mark.parametrize("line", WRONG_CONVOLUTIONS)
def test_wrong_convolutions_are_named(line):
    with pytest.raises(NotSolved, match=line):
        gallery.check_causal_convolution(WRONG_CONVOLUTIONS[line])


def test_other_wrong_paddings_are_named():
    def last(x, weight):  # pads both, keeps the end
        both = F.pad(x.mT, (weight.shape[-1] - 1, weight.shape[-1] - 1))
        return F.conv1d(both, weight).mT[:, -x.shape[1] :]

    with pytest.raises(NotSolved, match="wrong end"):
        gallery.check_causal_convolution(last)
    with pytest.raises(NotSolved, match="comes from the future"):
        gallery.check_causal_convolution(padded(lambda k: k - 1, lambda k: 0, "circular"))


@pytest.mark.parametrize("how", [{"mode": "replicate"}, {"value": 1.0}])
def test_only_zeros_stand_in_front(how):
    def convolve(x, weight):
        return F.conv1d(F.pad(x.mT, (weight.shape[-1] - 1, 0), **how), weight).mT

    with pytest.raises(NotSolved, match="in front of the first word stand zeros"):
        gallery.check_causal_convolution(convolve)


def test_a_kernel_of_any_width_is_asked():
    def cropped(x, weight):  # [..., :-(k - 1)] is empty where k is 1
        k = weight.shape[-1]
        return F.conv1d(F.pad(x.mT, (k - 1, k - 1)), weight)[..., : -(k - 1)].mT

    with pytest.raises(NotSolved, match="one output for each input: with k = 1"):
        gallery.check_causal_convolution(cropped)
    for k in (3, 4):  # written for one width
        with pytest.raises(NotSolved, match="one output for each input: with k ="):
            gallery.check_causal_convolution(
                lambda x, weight, k=k: F.conv1d(F.pad(x.mT, (k - 1, 0)), weight).mT
            )


@pytest.mark.parametrize(
    ("given", "tool", "line"),
    [
        ("A", "audit", "Who knows where"),
        ("B", "gradient", "clean gradient proves nothing"),
        ("B", "none", "clean gradient proves nothing"),
        ("B", "certificate", "declared mask says nothing"),
        ("B", "audit", "B: the audit rings, because one of the tools that it asks does"),
        ("C", "none", "clean test on a padded batch"),
        ("C", "substitution", "clean test on a padded batch"),
        ("D", "certificate", "declared mask is not the used mask"),
        ("D", "audit", "D: the audit rings"),
        ("E", "substitution", "no tolerance"),
        ("E", "audit", "E: the audit rings"),
        ("F", "audit", "order of training and scoring"),
        ("F", "prefix", "order of training and scoring"),
        ("F", "loss", "a tool is one of"),
        ("F", None, 'say "none", not None'),
    ],
)
def test_wrong_tools_are_named(given, tool, line):
    right = cell("exercise-2-solution")["rings_solution"]
    with pytest.raises(NotSolved, match=line):
        gallery.check_tools({**right, given: tool})


@pytest.mark.parametrize("tool", ["substitution", "prefix"])
def test_each_tool_that_rings_is_accepted(tool):
    gallery.check_tools({**cell("exercise-2-solution")["rings_solution"], "B": tool, "D": tool})


def by_cutting(time=24, exact=False, cuts=None):
    def looks_ahead(model, vocabulary):
        ids = torch.arange(time)[None] % vocabulary
        whole = model(ids)
        limit = 0.0 if exact else 1e-4 * float(whole.abs().max())
        return any(
            float((model(ids[:, :cut]) - whole[:, :cut]).abs().max()) > limit
            for cut in cuts or range(1, time)
        )

    return looks_ahead


def by_allclose(model, vocabulary):
    ids = torch.arange(24)[None] % vocabulary
    whole = model(ids)
    return not all(torch.allclose(model(ids[:, :t]), whole[:, :t]) for t in range(1, 24))


def by_replacing(time=24, places=None):
    def looks_ahead(model, vocabulary):
        ids = torch.arange(time)[None] % vocabulary
        whole = model(ids)
        for place in places or range(1, time):
            other = ids.clone()
            other[0, place] = (ids[0, place] + 5) % vocabulary
            moved = (model(other) - whole)[:, :place].abs().max()
            if moved > 1e-4 * whole.abs().max():
                return True
        return False

    return looks_ahead


WRONG_DETECTORS = {
    "all seven condemned": lambda model, vocabulary: True,
    "all seven acquitted": lambda model, vocabulary: False,
    "for its rounding|compares with": by_cutting(exact=True),
    "allclose's default tolerance": by_allclose,
    "A: answer True .looks ahead. or False, not str": lambda model, vocabulary: "True",
    "A: answer True .looks ahead. or False, not Tensor": lambda model, vocabulary: model(
        torch.arange(4)[None]
    ),
    "A: answer True .looks ahead. or False, not float": lambda model, vocabulary: 0.5,
    "C is missed": by_replacing(places=[23]),  # only the last position
    "F is missed": by_cutting(time=6),
    "G is missed": by_replacing(),  # only one length
}


@pytest.mark.parametrize("line", WRONG_DETECTORS)
def test_wrong_detectors_are_named(line):
    with pytest.raises(NotSolved, match=line):
        gallery.check_detector(WRONG_DETECTORS[line])


@pytest.mark.parametrize(
    ("condemned", "line"),
    [
        ("ABCDFG", "B is honest, and you condemn it for its rounding"),
        ("ABCDFG", "and so is allclose's default tolerance"),
        ("ABCDEFG", "==, or with allclose's default tolerance"),
        ("ACDEFG", "E is honest"),
        ("CDFG", "A looks everywhere"),
        ("ACFG", "D is missed"),
    ],
)
def test_wrong_verdicts_are_named(condemned, line):
    names = iter(gallery.sealed_models())  # the check asks in this order
    with pytest.raises(NotSolved, match=line):
        gallery.check_detector(lambda model, vocabulary: next(names) in condemned)


def test_exact_comparison_is_refused_in_truth():
    model = gallery.sealed_models()["B"]
    assert by_cutting(exact=True)(model, gallery.VOCABULARY)
    assert not by_cutting()(model, gallery.VOCABULARY)


def test_the_sealed_models_are_what_the_check_says():
    ids = torch.arange(24)
    models = gallery.sealed_models()
    cut = {name for name, model in models.items() if prefix_invariance(model, ids).any()}
    assert cut == set("ACDFG")
    ahead = {name for name, model in models.items() if influence(model, ids).triu(1).any()}
    assert ahead == set("ACDF")  # G only knows how long the text is
    assert not influence(models["F"], ids[:7]).triu(1).any()
    assert influence(models["C"], ids).triu(1).nonzero().tolist() == [[0, 1], [0, 2]]
    for model in models.values():
        assert model(ids[None, :1]).shape == (1, 1, gallery.VOCABULARY)


def test_a_detector_may_use_the_course():
    gallery.check_detector(
        lambda model, vocabulary: prefix_invariance(model, torch.arange(24)).any()
    )


@pytest.mark.parametrize(
    "kind", [bool, int, float, np.bool_, torch.tensor, lambda v: np.array([v])]
)
def test_any_truth_value_is_a_verdict(kind):
    right = by_cutting()
    gallery.check_detector(lambda model, vocabulary: kind(right(model, vocabulary)))
