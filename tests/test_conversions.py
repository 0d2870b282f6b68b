"""Side road A2: its exercises, by the cells of the notebook itself and by wrong answers."""

from functools import partial

import exercise_cells
import pytest
import torch

from mylib.exercises import NotSolved, conversions
from mylib.experiments.opening import flag_only
from mylib.leaks import layer_influence
from mylib.zoo import tiny

cell = partial(exercise_cells.cell, "A2-conversions.ipynb")
LOWEST = torch.finfo(torch.float32).min


@pytest.mark.parametrize(
    ("exercise", "answer", "check"),
    [
        ("exercise-1", "verdicts", conversions.check_verdicts),
        ("exercise-2", "parity", conversions.check_parity),
        ("exercise-3", "key_mask", conversions.check_added),
    ],
)
def test_stub_is_refused_and_solution_accepted(exercise, answer, check, capsys):
    with pytest.raises(NotSolved, match="write your answer"):
        check(cell(f"{exercise}-stub")[answer])
    check(cell(f"{exercise}-solution")[f"{answer}_solution"])
    assert "solved" in capsys.readouterr().out


# A2.1: the verdicts are what is measured.

IDS = torch.arange(10, 20).view(2, 5)
MASK = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])


def flagged(backend):
    model = tiny("llama", backend)
    flag_only(model)
    return model


def handed(backend, mask):
    """Every attention is handed this mask, (B, 1, T, T)."""
    model = tiny("llama", backend)
    for layer in model.model.layers:
        layer.self_attn.register_forward_pre_hook(
            lambda module, args, kwargs: (args, kwargs | {"attention_mask": mask}), with_kwargs=True
        )
    return model


def looped():
    model = tiny("llama", "sdpa")
    model.config.use_cache = False
    for layer in model.model.layers:
        original = layer.self_attn.forward

        def forward(*args, **kwargs):
            return original(  # noqa: B023
                *args, **kwargs | {"attention_mask": torch.zeros(1, 1, 5, 5)}
            )

        layer.self_attn.forward = forward
    return model


def verdict(model, padded=False):
    real = MASK[0].bool() if padded else torch.ones(5, dtype=torch.bool)
    ids, mask = (IDS, MASK) if padded else (IDS[:1], None)
    layers = [seen[real] for seen in layer_influence(model, ids, attention_mask=mask).values()]
    if any(seen[:, ~real].any() for seen in layers):
        return "pads seen"
    if not all(seen[:, real].all() for seen in layers):
        return "causal" if not any(seen.triu(1).any() for seen in layers) else "other"
    hidden = ~real[None, None, None].expand(1, 1, 5, 5)
    by_hand = torch.zeros(1, 1, 5, 5).masked_fill(hidden, LOWEST)
    with torch.no_grad():
        found = model(ids, attention_mask=mask).logits[0, real]
        wanted = tiny("llama", "eager")(IDS[:1], attention_mask=by_hand).logits[0, real]
    return "right" if (found - wanted).abs().max() < 1e-3 * wanted.abs().max() else "wrong numbers"


def test_the_verdicts_are_what_is_measured():
    numbers = MASK.float()[:, None, None].expand(-1, 1, 5, 5)
    assert {
        "A": verdict(flagged("sdpa")),
        "B": verdict(flagged("sdpa"), padded=True),
        "C": verdict(flagged("eager")),
        "D": verdict(handed("eager", torch.ones(1, 1, 5, 5, dtype=torch.bool))),
        "E": verdict(handed("sdpa", numbers), padded=True),
        "F": verdict(looped()),
    } == conversions.VERDICTS


@pytest.mark.parametrize(
    ("name", "wrong", "line"),
    [
        ("A", "causal", "None means as the flag says"),
        ("B", "right", "the flag is not asked"),
        ("C", "right", "handed over always"),
        ("D", "stops", "Does a softmax notice"),
        ("E", "right", "a little less likely"),
        ("F", "right", "which attention is it by then"),
        ("F", "broken", "a verdict is one of"),
    ],
)
def test_wrong_verdicts_are_named(name, wrong, line):
    solution = cell("exercise-1-solution")["verdicts_solution"]
    with pytest.raises(NotSolved, match=line):
        conversions.check_verdicts({**solution, name: wrong})


def parity(pads=((), (4, 5), (0, 1)), words_only=True, equal=None):
    """A test of parity that asks these paddings, compares these places, in this way."""

    def close(found, wanted):
        return (found - wanted).abs().max() < 1e-3 * wanted.abs().max()

    def answer(opened, reference):
        ids = torch.arange(10, 22).view(2, 6)
        for each in pads:
            mask = torch.ones_like(ids)
            mask[0, list(each)] = 0
            kept = mask.bool() if words_only else torch.ones_like(mask).bool()
            if not (equal or close)(opened(ids, mask)[kept], reference(ids, mask)[kept]):
                return False
        return True

    return answer


WRONG_PARITIES = {
    "all nine are refused": parity(equal=torch.equal),
    "read by nobody": parity(words_only=False),
    "Your texts have no pads": parity(pads=[()]),
    "Your pads always do": parity(pads=[(), (4, 5)]),
    "Each of your batches has a pad": parity(pads=[(4, 5), (0, 1)]),
    "None of yours stands at the end": parity(pads=[(), (0, 1)]),
    "ask so that NaN fails": parity(equal=lambda a, b: not (a - b).abs().max() > 1e-3),
    "a wide tolerance does not": parity(equal=lambda a, b: torch.equal(a.argmax(-1), b.argmax(-1))),
    "compare the numbers": lambda opened, reference: True,
    "returns None": lambda opened, reference: None,
    "not str": lambda opened, reference: "equal",
}


@pytest.mark.parametrize("line", WRONG_PARITIES)
def test_wrong_parities_are_named(line):
    with pytest.raises(NotSolved, match=line):
        conversions.check_parity(WRONG_PARITIES[line])


def at_words(model, mask):
    ids = torch.arange(10, 22).view(2, 6)
    return model(ids, mask)[mask.bool()]


@pytest.mark.parametrize(
    ("name", "fails"),
    [
        ("E", {"left"}),
        ("H", {"none"}),
        ("I", {"right"}),
        ("A", set()),
        ("C", {"none", "left", "right"}),
    ],
)
def test_the_sealed_pairs_fail_where_their_lines_say(name, fails):
    found = set()
    for case, pads in {"none": [], "right": [4, 5], "left": [0, 1]}.items():
        mask = torch.ones(2, 6, dtype=torch.long)
        mask[0, pads] = 0
        with torch.no_grad():
            opened, wanted = (at_words(each, mask) for each in conversions.sealed_pairs()[name])
        if not (opened - wanted).abs().max() < 1e-3 * wanted.abs().max():
            found.add(case)
    assert found == fails


def both_sides(valid):
    return valid[:, None, :, None] & valid[:, None, None, :]


def filled(hidden, value, dtype):
    return torch.zeros(hidden.shape, dtype=dtype).masked_fill(hidden, value)


WRONG_MASKS = {
    "on eager they are added": lambda valid, dtype: valid[:, None, None, :],
    "0 and 1 are no wall": lambda valid, dtype: valid[:, None, None, :].to(dtype),
    "as a query it may look at nobody": lambda valid, dtype: filled(
        ~both_sides(valid), -torch.inf, dtype
    ),
    "without any word": lambda valid, dtype: filled(~valid[:, None, None], -torch.inf, dtype),
    "turned over": lambda valid, dtype: filled(
        valid[:, None, None, :], torch.finfo(dtype).min, dtype
    ),
    "use the dtype that is given": lambda valid, dtype: filled(
        ~valid[:, None, None, :], LOWEST, torch.float32
    ),
    "(B, 1, T, T) or": lambda valid, dtype: filled(~valid, torch.finfo(dtype).min, dtype),
    "0 times infinity": lambda valid, dtype: (~valid[:, None, None, :]).to(dtype) * -torch.inf,
    "once the scores of words lie 15,625 below": lambda valid, dtype: filled(
        ~valid[:, None, None, :], -10_000.0, dtype
    ),
    "not see all words": lambda valid, dtype: filled(
        ~both_sides(valid) | torch.ones(5, 5).triu(1).bool(), torch.finfo(dtype).min, dtype
    ),
}


@pytest.mark.parametrize("line", WRONG_MASKS)
def test_wrong_masks_are_named(line):
    with pytest.raises(NotSolved) as refused:
        conversions.check_added(WRONG_MASKS[line])
    assert line in str(refused.value)


def test_a_mask_of_the_full_shape_that_also_closes_queries_by_the_lowest_number_is_accepted():
    def added(valid, dtype):
        return filled(~both_sides(valid), torch.finfo(dtype).min, dtype)

    conversions.check_added(added)
