"""Is a decoder that somebody opened really bidirectional?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..auditing import audit
from ..cases import some_ids
from ..masks import Mask, bidirectional, causal, dense, sliding_window
from ..mixers import layer_influence
from ..probes import NotFinite, call, evaluating
from ..reports import Report

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LENGTH = 8  # tokens of a check; more where a short window would not show
LONGEST = 64  # windows above this do not show in a check; below it both sides look the same


class NotBidirectional(ValueError):
    """A model whose tokens do not all see each other, or see what they must not.

    ``report`` is the audit that found it, None if it did not come that far.
    """

    def __init__(self, message: str, report: Report | None = None) -> None:
        super().__init__(message)
        self.report = report


def check_bidirectional(model: PreTrainedModel) -> Report:
    """The audit of a decoder that is said to be opened; it comes back if every check holds.

    In every layer each real token must see each real token (or all within its window, as far to
    the right as to the left); no pad may be seen; nothing may be NaN; content and number of the
    pads must change nothing. One row alone, a batch without padding, right and left padding.

    Windows longer than 64 tokens do not show in so short a text.

    Raises `NotBidirectional` with the first thing that is wrong. Whatever the model itself raises
    counts as wrong, too.
    """
    opened = getattr(model, "opened", None)
    try:
        body = by_token(model)
        report = audit(body, opened.masks if opened else _plausible(body), ids=text(model))
    except Exception as error:
        raise NotBidirectional(
            f"{type(model).__name__} stopped with {type(error).__name__}: {error}"
        ) from error
    wrong = report.problems + report.notes
    if not wrong and not any("padding" in case for case in report.cases):
        wrong = ["it takes no attention_mask, so nothing tells it what a pad is"]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        inner = [line for line in wrong if not line.startswith("whole model")]  # where it sits
        raise NotBidirectional(f"{type(model).__name__}: {(inner or wrong)[0]}{more}", report)
    return report


def by_token(model: PreTrainedModel) -> PreTrainedModel:
    """The model, or its body where the head gives no output for each token (a classifier)."""
    ids = text(model)[None]
    with evaluating(model), torch.no_grad():
        try:
            call(model, ids, {})
        except NotFinite:
            raise
        except ValueError:
            return model.base_model
    return model


def text(model: PreTrainedModel) -> Tensor:
    """Different token ids, long enough to show every short window of the model."""
    if (opened := getattr(model, "opened", None)) is not None:
        return some_ids(model, opened.length)  # as long as when its windows were measured
    length = max([LENGTH, *(window + 4 for window in declared_windows(model))])
    most = getattr(model.config, "max_position_embeddings", None) or length
    return some_ids(model, min(length, most, model.config.vocab_size - 2))


def declared_windows(model: PreTrainedModel) -> list[int]:
    """Every window of at most 64 tokens that the configuration speaks of, under any name."""
    fields: dict[str, Any] = model.config.to_dict()
    return [
        value
        for name, value in fields.items()
        if ("window" in name or "local" in name or "chunk" in name)
        and isinstance(value, int)
        and 1 < value <= LONGEST
    ]


def causal_windows(model: PreTrainedModel) -> list[int | None]:
    """How many tokens each layer of a causal model sees, measured; None = all before it.

    Raises `NotBidirectional` where a layer is neither causal nor causal within a window.
    """
    ids = text(model)
    found: list[int | None] = []
    for name, seen in layer_influence(by_token(model), ids).items():
        window = int(seen[-1].sum())
        mask = causal if window == len(ids) else sliding_window(max(window, 1) - 1, 0)
        if not torch.equal(seen, dense(mask, len(ids))[0, 0]):
            raise NotBidirectional(f"{name} is neither causal nor causal within a window")
        found.append(None if window == len(ids) else window)
    return found


def _plausible(model: PreTrainedModel) -> list[Mask]:
    """One mask for each layer: open, or a band as wide as a declared window allows.

    The width is taken from the layer, for nobody here knows which it was meant to be; a layer
    that is not the same to both sides is expected to be open, and fails.
    """
    ids = text(model)
    allowed = {width for w in declared_windows(model) for width in (w, w - 1, w // 2)}
    masks = []
    for seen in layer_influence(model, ids).values():
        width = int(seen[0].sum()) - 1
        band = sliding_window(max(width, 0), max(width, 0))
        fits = width in allowed and torch.equal(seen, dense(band, len(ids))[0, 0])
        masks.append(band if fits else bidirectional)
    return masks
