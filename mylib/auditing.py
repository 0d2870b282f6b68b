"""The audit: is a finished network what somebody says it is?

Measured is the whole network and every mixer in it (`mylib.mixers`), on one row alone, in a batch
without padding, and beside a padded neighbour on either side: real models have failed in one of
these and passed in the others. Real outputs must not change with the content or the number of pads.

Source: ours; the cases are those of public bug reports, collected in side road A2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .cases import Case, cases, parameters, some_ids
from .masks import Mask, Rule, as_mask, bidirectional, causal, dense, reach
from .mixers import Mixer, run
from .probes import (
    NotFinite,
    call,
    comparable,
    embedding,
    evaluating,
    influence_strengths,
    prefix_invariance,
    scale,
)
from .reports import Report

NAMED = {"causal": causal, "bidirectional": bidirectional}
# Outputs that differ by less than this share of the largest are equal: other shapes of the batch
# round differently, by up to 1e-6 in float32 and 1.4e-2 in bfloat16. What a pad really changes lay
# above 1e-2 in all models tried (in float32). A coarse dtype gets `COARSE` of its steps instead.
SAME = 1e-4
COARSE = 8


def audit(
    model: Callable,
    expected: str | Rule | Sequence[Rule],
    ids: Tensor | None = None,
    *,
    length: int = 8,
    **inputs: Any,
) -> Report:
    """Measure a model against ``expected``: "causal", "bidirectional", a mask, or one per mixer.

    ``model``: our `GPT` (pass ``mask=``), a Hugging Face model, or any callable from ids (B, T) to
    outputs (B, T, ...). One that takes an ``attention_mask`` is also tried in a batch of two, with
    right and with left padding. ``ids``: (T,), by default ``length`` different tokens; a window
    shows only if the text is longer. ``inputs`` are passed on at every call.

    The whole model is asked by gradient and by substitution, each mixer by gradient and without a
    cache, in evaluation mode. What another row says, and what pads hold, must change nothing. A
    model that is to see nothing later (causal, or less) must also give the same outputs for a text
    that is cut.

    The report names the first wrong pair in words; `Report.drawing` shows it.

    Raises `ValueError` for an expectation that is none of these, for a number of masks that is not
    that of the mixers, for a text of fewer than two tokens, for a model that answers the same text
    in two ways (chance, or a state that it keeps), and whatever the model raises.
    """
    name, masks = _expectation(expected)
    with torch.inference_mode(False):  # no gradient passes through what is made in it
        ids = some_ids(model, length) if ids is None else torch.as_tensor(ids).clone()
        return _audit(Report(name), model, masks, ids, inputs)


def _audit(
    report: Report, model: Callable, masks: Mask | list[Mask], ids: Tensor, inputs: dict
) -> Report:
    if ids.dim() != 1 or len(ids) < 2:
        raise ValueError(f"a text is ids (T,), two or more; got the shape {tuple(ids.shape)}")
    _refuse_moods(model, ids, inputs)
    takes = parameters(model)
    hidden = any(p.kind is p.VAR_KEYWORD for p in takes.values())
    if "attention_mask" not in takes and hidden:
        report.notes.append(
            "its **keywords do not say whether it takes an attention_mask: nothing was padded"
        )
    alone: Tensor | None = None
    known: list[nn.Module] | None = None  # the mixers, once they were found
    for case in cases(model, ids, inputs):
        try:
            output, known = _measure(report, model, masks, case, inputs | case.extra, known)
        except NotFinite as error:
            report.problems.append(f"{case.name}: {error}")
            continue
        if case.name == "one row":
            alone = output[0]
        else:
            _neighbours_change_nothing(report, model, case, inputs, output)
        if not case.valid.all():
            _pads_change_nothing(report, model, case, inputs, output)
        elif alone is not None and _differ(output[0], alone):
            report.problems.append(f"{case.name}: the row has other outputs than alone")
    if not report.cases:
        raise NotFinite(report.problems[0])
    if not known and isinstance(model, nn.Module) and isinstance(masks, Mask):
        once = pattern(masks, len(ids))[0]
        if (reach([once, once]) != once).any():
            report.notes.append(
                "no module that mixes tokens was found: the model counts as one layer"
            )
    if _may_cut(masks, len(ids), inputs) and not report.leaks:
        cuts = {len(ids) // 2, len(ids) - 1}
        tolerance = _same(output.dtype)
        changed = prefix_invariance(model, ids, cuts=cuts, tolerance=tolerance, **inputs)
        if changed.any():
            t, i = changed.nonzero()[0].tolist()
            report.problems.append(
                f"cut after token {t}: output {i} changes, so something tells the length"
            )
    return report


def _refuse_moods(model: Callable, ids: Tensor, inputs: dict) -> None:
    """Raise `ValueError` for a model that answers the same question in two ways."""
    with evaluating(model), torch.no_grad():
        try:
            first, second = (call(model, ids[None], inputs)[0] for _ in range(2))
        except NotFinite:
            return  # told below, in its case
    if _differ(first, second):
        raise ValueError(
            "the same ids give other outputs when asked again: chance that evaluation mode does "
            "not switch off (F.dropout without training=), or a state kept between calls"
        )


def pattern(mask: Rule, time: int, batch: int | None = None, heads: int | None = None) -> Tensor:
    """Who may look at whom in any of the heads: bool (B, T, T).

    Raises `ValueError` for a mask that differs from head to head if ``heads`` is not given.
    """
    visible = dense(mask, time, batch=batch, heads=heads or 2)
    if heads is None and visible.stride(1):  # not one matrix expanded over the heads
        raise ValueError(f"{mask} differs from head to head; say how many there are (heads=)")
    return visible.any(1)


def _expectation(expected: str | Rule | Sequence[Rule]) -> tuple[str, Mask | list[Mask]]:
    """Its name, and the mask of all mixers or a list of one for each."""
    if isinstance(expected, str):
        if expected not in NAMED:
            raise ValueError(f"expected is 'causal', 'bidirectional' or a mask, not {expected!r}")
        expected = NAMED[expected]
    if isinstance(expected, Sequence):
        masks = [as_mask(mask) for mask in expected]
        if not masks:
            raise ValueError("expected is a list of masks, one for each mixer; it is empty")
        return ", ".join(dict.fromkeys(mask.name for mask in masks)), masks
    mask = as_mask(expected)
    return mask.name, mask


def _measure(
    report: Report,
    model: Callable,
    masks: Mask | list[Mask],
    case: Case,
    inputs: dict,
    known: list[nn.Module] | None,
) -> tuple[Tensor, list[nn.Module]]:
    """The whole model and every mixer in one case; the output (B, T, ...), and the mixers."""
    time = case.batch.shape[1]
    if isinstance(model, nn.Module):
        output, found = run(model, case.batch, inputs, known)
    else:
        output, found = call(model, case.batch, inputs), []
    known = [mixer.module for mixer in found]
    layers = max(len(found), 1)
    if isinstance(masks, list) and len(masks) != layers:
        raise ValueError(
            f"{case.name}: {len(masks)} masks are expected, but {len(found)} modules mix tokens"
        )
    each = [pattern(m, time)[0] for m in (masks if isinstance(masks, list) else [masks] * layers)]
    through = reach([layer & case.valid[None, :] for layer in each])
    # Mixers first: what a model keeps beside them (a mask at the door) is of this very batch.
    with evaluating(model):
        inside = [
            _layer(mixer, wanted & case.valid[None, :], case.valid)
            for mixer, wanted in zip(found, each, strict=False)
        ]
    # The third row is there for `_pads_change_nothing`; a gradient through it only costs time.
    two = inputs | {name: given[:2] for name, given in case.extra.items()}
    asked = _probe(model, case, inputs)
    if len(case.batch) == 1 or embedding(model) is not None:
        whole = influence_strengths(model, case.batch[:2], probe=asked, **two)
    else:
        whole = torch.zeros(time, time, dtype=torch.double)
    own = {name: value for name, value in inputs.items() if name not in case.extra}
    if len(case.batch) > 1 and len(case.batch[0].unique()) > 1 and not _of_one_batch(own):
        # Substitution in the row's own padding: one row, and one for each token that is replaced.
        many = {n: given[:1].expand(time + 1, -1) for n, given in case.extra.items()}
        swapped = {"probe": "substitution"} | inputs | many
        whole = whole.maximum(influence_strengths(model, case.batch[:1], **swapped))
    _compare(report, f"whole model, {case.name}", whole, through, case.valid)
    for mixer, wanted, strengths in zip(found, each, inside, strict=False):
        _compare(report, f"{mixer.name}, {case.name}", strengths, wanted, case.valid)
    return output, known


def _probe(model: Callable, case: Case, inputs: dict) -> str | None:
    # Substitution makes a batch of its own: not of one that is padded, nor for inputs of one row.
    if len(case.batch) > 1 or len(case.batch[0].unique()) < 2 or _of_one_batch(inputs):
        return None
    return None if embedding(model) is None else "both"


def _may_cut(masks: Mask | list[Mask], time: int, inputs: dict) -> bool:
    """Is nobody to see anything later? (Nobody here knows how to cut a tensor among the inputs.)"""
    each = masks if isinstance(masks, list) else [masks]
    later = any(pattern(mask, time)[0].triu(1).any() for mask in each)
    return not later and not _of_one_batch(inputs)


def _of_one_batch(inputs: dict) -> bool:
    """Tensors, and masks that were made for a batch, fit no other batch and no other length."""
    return any(isinstance(x, Tensor) or getattr(x, "batch", None) for x in inputs.values())


def _layer(mixer: Mixer, wanted: Tensor, valid: Tensor) -> Tensor:
    """Strengths (T, T) of one mixer; a saturated softmax is asked again where it is flat.

    Scaled-down hidden states give small scores and an even softmax; who may look stays the same.
    """
    strengths = mixer.strengths()
    if (wanted & (strengths == 0))[valid].any():
        strengths = strengths.maximum(mixer.strengths(scale=1e-2))
    return strengths / strengths.max().clamp(min=1e-300)


def _compare(report: Report, where: str, strengths: Tensor, wanted: Tensor, valid: Tensor) -> None:
    """Real queries against the pattern; pads must be seen by no real query."""
    seen = strengths > 0
    wanted = wanted & valid[None, :]
    wrong = (seen != wanted) & valid[:, None]
    # A token's own influence also travels past attention, in the residual stream.
    wrong &= ~(torch.eye(len(seen), dtype=torch.bool) & seen)
    report.cases[where], report.wrong[where] = seen, wrong
    if wrong.any():
        i, j = report.pair(where)
        kind = "token" if valid[j] else "the pad at"
        verb = "sees" if seen[i, j] else "does not see"
        weak = float(strengths.where(wrong, 0.0).max())
        how = f", at most {weak:.0e} of the strongest: round-off?" if 0 < weak < 1e-6 else ""
        report.problems.append(
            f"{where}: token {i} {verb} {kind} {j} ({int(wrong.sum())} wrong pairs{how})"
        )


def _pads_change_nothing(
    report: Report, model: Callable, case: Case, inputs: dict, output: Tensor
) -> None:
    """Other pads, and no pads at all, must leave the real outputs as they are."""
    if any(line.startswith("whole model, " + case.name) for line in report.problems):
        return  # who sees what is wrong already; numbers would only repeat it
    real = output[0, case.valid]
    if _differ(output[2, case.valid], real):
        report.problems.append(f"{case.name}: the content of the pads changes real outputs")
        return
    if _of_one_batch(inputs):
        return
    with evaluating(model), torch.no_grad():
        bare = call(model, case.batch[:1, case.valid], inputs)[0]
    if _differ(bare, real):
        line = f"{case.name}: without its pads the row has other outputs"
        if case.name == "left padding":  # nobody sees the pads, but they move the positions
            report.notes.append(f"{line} (perhaps its positions are counted through the pads)")
        else:
            report.problems.append(line)


def _neighbours_change_nothing(
    report: Report, model: Callable, case: Case, inputs: dict, output: Tensor
) -> None:
    """Another text in row 1 must leave row 0 as it is."""
    other = case.batch.clone()
    other[1] = other[1].roll(1)
    other[1, -1] = other[1, 0]
    with evaluating(model), torch.no_grad():
        moved = call(model, other, inputs | case.extra)[0]
    if _differ(moved[case.valid], output[0, case.valid]):
        report.problems.append(f"{case.name}: another text beside it changes the row")


def _differ(left: Tensor, right: Tensor) -> bool:
    same = _same(right.dtype)
    left, right = (x.flatten(1).double() for x in comparable(left, right))
    return bool(((left - right).abs() > same * scale(right)).any())


def _same(dtype: torch.dtype) -> float:
    return max(SAME, COARSE * torch.finfo(dtype).eps) if dtype.is_floating_point else SAME
