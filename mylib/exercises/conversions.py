"""Side road A2: six verdicts, a test of parity, and a mask that nothing turns into NaN."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..zoo import tiny
from . import check, expect

__all__ = ["check_added", "check_parity", "check_verdicts", "sealed_pairs"]

CHOICES = ("right", "causal", "pads seen", "only itself", "wrong numbers", "stops")
VERDICTS = {
    "A": "right",
    "B": "causal",
    "C": "causal",
    "D": "right",
    "E": "pads seen",
    "F": "wrong numbers",
}
MISTAKES = {
    "A": "A: one row alone on sdpa: the attention is handed None, and None means as the flag says. "
    "What does the flag say now?",
    "B": "B: with pads a ready-made mask is handed over, and the flag is not asked. Who built that "
    "mask, and had it heard of the flag?",
    "C": "C: on eager a mask of numbers is handed over always, with pads or without. Nobody asks "
    "the flag",
    "D": "D: on eager booleans are added to the scores, and all of them are True: 1 more "
    "everywhere. Does a softmax notice?",
    "E": "E: numbers are added to the scores. A pad that gets 0 where words get 1 is a little less "
    "likely to be looked at, and no more",
    "F": "F: the mask is right, so everybody may look. But `original` is looked up when the "
    "wrapper is called: which attention is it by then?",
}


@check("A2.1")
def check_verdicts(answer: dict[str, str]) -> None:
    """``answer``: for each situation A to F one of `CHOICES`."""
    expect(
        isinstance(answer, dict) and set(answer) == set(VERDICTS),
        "give one verdict for each situation, A to F",
    )
    if Ellipsis in answer.values():
        raise NotImplementedError
    unknown = [each for each in answer.values() if each not in CHOICES]
    expect(not unknown, f"a verdict is one of {', '.join(CHOICES)}; found {unknown}")
    for name, verdict in VERDICTS.items():
        expect(answer[name] == verdict, MISTAKES[name])


Model = Callable[[Tensor, Tensor], Tensor]


def sealed_pairs() -> dict[str, tuple[Model, Model]]:
    """Nine pairs (opened, reference) for exercise A2.2, each (ids, mask) -> logits (B, T, 64).

    Two are equal at words, seven are not. Whoever reads on here knows which.
    """
    from ..convert import make_bidirectional
    from ..experiments.opening import flag_only

    eager = tiny("llama", "eager")
    verified, flagged, untouched = tiny("llama"), tiny("llama"), tiny("llama")
    make_bidirectional(verified)
    flag_only(flagged)

    def reference(ids: Tensor, mask: Tensor) -> Tensor:
        return eager(ids, attention_mask=key_mask(mask.bool(), torch.float32)).logits

    def right(ids: Tensor, mask: Tensor) -> Tensor:
        return verified(ids, attention_mask=mask).logits

    def other_pads(ids: Tensor, mask: Tensor) -> Tensor:
        return right(ids, mask).masked_fill(mask[..., None] == 0, 7.0)

    def flag(ids: Tensor, mask: Tensor) -> Tensor:
        return flagged(ids, attention_mask=mask).logits

    def counted(ids: Tensor, mask: Tensor) -> Tensor:  # as if all pads stood at the end
        return right(ids, (torch.arange(ids.shape[1]) < mask.sum(1, keepdim=True)).long())

    def counted_back(ids: Tensor, mask: Tensor) -> Tensor:  # as if all stood at the beginning
        first_word = (mask == 0).sum(1, keepdim=True)
        return right(ids, (torch.arange(ids.shape[1]) >= first_word).long())

    def company(ids: Tensor, mask: Tensor) -> Tensor:  # without pads no mask arrives
        return untouched(ids).logits if mask.all() else right(ids, mask)

    def undefined(ids: Tensor, mask: Tensor) -> Tensor:
        padded = (mask == 0).any(1)[:, None, None]
        return right(ids, mask).masked_fill(padded, torch.nan)

    def hotter(ids: Tensor, mask: Tensor) -> Tensor:  # the same favourites, other numbers
        return 1.1 * right(ids, mask)

    def looped(ids: Tensor, mask: Tensor) -> Tensor:
        first, last = verified.model.layers[0], verified.model.layers[-1]
        own = first.self_attn.forward
        first.self_attn.forward = last.self_attn.forward
        try:
            return right(ids, mask)
        finally:
            first.self_attn.forward = own

    models = {
        "A": right,
        "B": other_pads,
        "C": looped,
        "D": flag,
        "E": counted,
        "F": undefined,
        "G": hotter,
        "H": company,
        "I": counted_back,
    }
    return {name: (model, reference) for name, model in models.items()}


def key_mask(valid: Tensor, dtype: torch.dtype) -> Tensor:
    """What eager adds to its scores: bool (B, T) -> (B, 1, T, T), 0 or the lowest number."""
    hidden = ~valid[:, None, None, :].expand(-1, 1, valid.shape[1], -1)
    return torch.zeros(hidden.shape, dtype=dtype).masked_fill(hidden, torch.finfo(dtype).min)


@check("A2.2")
def check_parity(parity: Callable) -> None:
    """``parity(opened, reference)`` -> bool, for each of `sealed_pairs`."""
    pairs = sealed_pairs()
    with torch.no_grad():
        found = {name: parity(*pair) for name, pair in pairs.items()}
    for name, verdict in found.items():
        expect(verdict is not None, f"{name}: your test returns None; return True or False")
        expect(
            isinstance(verdict, bool) or hasattr(verdict, "item"),  # NumPy's and torch's, too
            f"{name}: return True or False, not {type(verdict).__name__}",
        )
    found = {name: bool(verdict) for name, verdict in found.items()}
    expect(
        any(found.values()),
        "all nine are refused, and two are right. If you compare with == or with allclose's own "
        "tolerance: two kernels sum in different orders, and their last digits differ",
    )
    lines = {
        "A": "A is right, and you refuse it: its numbers differ from the reference's by rounding "
        "only",
        "B": "B is right, and you refuse it: it differs where pads stand, and what stands there is "
        "read by nobody. Compare words only",
    }
    for name, line in lines.items():
        expect(found[name], line)
    lines = {
        "C": "C is accepted, and all its layers are the last one (the plain loop). Its pattern is "
        "perfect: compare the numbers",
        "D": "D is accepted: alone it is right, and beside a longer text it is causal. Your texts "
        "have no pads",
        "F": "F is accepted, and beside pads it gives NaN. NaN > limit is False, and so is "
        "NaN < limit: ask so that NaN fails",
        "G": "G is accepted: its favourites are those of the reference, its numbers are not. An "
        "argmax, a cosine or a wide tolerance does not notice that",
        "E": "E is accepted: it takes all pads to stand at the end. Your pads always do",
        "H": "H is accepted: beside pads it is right, and where no row has a pad it is causal. "
        "Each of your batches has a pad",
        "I": "I is accepted: it takes all pads to stand at the beginning. None of yours stands at "
        "the end",
    }
    for name, line in lines.items():
        expect(not found[name], line)


@check("A2.3")
def check_added(added: Callable) -> None:
    """``added(valid, dtype)`` -> what eager adds to its scores, (B, 1, T or 1, T)."""
    valid = torch.tensor(
        [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0]]
    ).bool()
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        _check_mask(added(valid.clone(), dtype), valid, dtype)
    _check_in_a_model(added)


def _check_mask(mask: object, valid: Tensor, dtype: torch.dtype) -> None:
    rows, time = valid.shape
    expect(isinstance(mask, Tensor), f"return a tensor, not {type(mask).__name__}")
    expect(
        mask.dtype != torch.bool,
        "booleans: on eager they are added to the scores, as 1 and 0, and pads stay visible",
    )
    expect(
        mask.dtype == dtype,
        f"for hidden states in {dtype} the mask is {mask.dtype}: use the dtype that is given",
    )
    expect(
        mask.shape in ((rows, 1, time, time), (rows, 1, 1, time)),
        f"(B, 1, T, T) or (B, 1, 1, T) for B = {rows}, T = {time}; found {tuple(mask.shape)}",
    )
    expect(not mask.isnan().any(), "the mask itself holds NaN (0 times infinity is NaN)")
    chance = torch.Generator().manual_seed(0)
    scores = torch.randn(rows, 1, time, time, generator=chance).to(dtype)
    weights = (scores + mask).float().softmax(-1)  # transformers, too, takes the softmax in float32
    words = valid[:, None, :, None] & valid[:, None, None, :]
    pads = valid[:, None, :, None] & ~valid[:, None, None, :]
    seen = weights > 1e-6
    expect(
        not seen[1][pads[1]].any() or seen[1][words[1]].any(),
        "turned over: words see pads and no words. 0 is added where one may look",
    )
    expect(
        not (weights.nan_to_num()[pads] > 0).any(),
        "a word sees a pad: what is added at pads must be so low that nothing is left after the "
        "softmax (0 and 1 are no wall)",
    )
    expect(
        weights[valid[:, None, :, None].expand_as(weights)].isfinite().all(),
        "a word's own row turns NaN",
    )
    expect(
        torch.allclose(
            weights[:3][words[:3]],
            scores[:3]
            .float()
            .masked_fill(~valid[:3, None, None, :], -torch.inf)
            .softmax(-1)[words[:3]],
            atol=1e-2,
        ),
        "words do not see all words as they should: add 0 where one may look, the same for all",
    )
    expect(
        weights[1:3].isfinite().all(),
        "a pad's row turns NaN, for as a query it may look at nobody; one layer later 0 times NaN "
        "reaches the words. Hide pads as keys only",
    )
    expect(
        weights.isfinite().all(),
        "a row without any word turns NaN: minus infinity everywhere leaves nothing to share. Use "
        "the lowest number of the dtype",
    )
    _check_pushed(mask, valid, dtype)


def _check_pushed(mask: Tensor, valid: Tensor, dtype: torch.dtype) -> None:
    """Where the scores of words are 15,625 below those of pads (A1 pushes as far)."""
    scores = (-15_625.0 * valid[:, None, None, :]).to(dtype)
    weights = (scores + mask).float().softmax(-1).expand(-1, 1, valid.shape[1], -1)
    pads = valid[:, None, :, None] & ~valid[:, None, None, :]
    expect(
        not (weights[pads] > 0).any(),
        f"in {dtype} a word sees a pad, once the scores of words lie 15,625 below the pad's. "
        "-10,000 is a leak that was published (side road A1): add the lowest number of the dtype",
    )


def _check_in_a_model(added: Callable) -> None:
    model = tiny("llama", "eager")
    ids = torch.arange(10, 20).view(2, 5)
    valid = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool()
    logits = []
    for mask in (added(valid.clone(), torch.float32), key_mask(valid, torch.float32)):
        with torch.no_grad():
            mask = mask.expand(-1, 1, 5, 5)
            logits.append(model(ids, attention_mask=mask).logits[valid])
    expect(logits[0].isfinite().all(), "in a model of two layers, words turn NaN")
    expect(
        torch.allclose(*logits, atol=1e-3),
        "in a model of two layers, words come out other than they should",
    )
