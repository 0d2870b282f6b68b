"""What a perfect reader would answer to the very batches that a model is asked.

`mylib.gazette` knows the posterior of every word; here it answers an objective's questions, so that
model and oracle can be compared answer by answer. Units: nats.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .evaluation import Model, answer_nll
from .gazette import Gazette
from .masks import dense
from .metrics import Interval, bootstrap_over, paired_excess
from .objectives import Batch, Objective
from .probes import eval_mode
from .tokenizer import MASK, PAD

ROWS = 64  # at once: (ROWS, T, V) numbers are held


def answer_floor(gazette: Gazette, batch: Batch) -> Tensor:
    """-log p of every answer given all words that the batch shows, nats (N,), float64.

    The floor of masked objectives, for rows of one document each, and for outputs that may look
    everywhere. The oracle takes a hidden end or padding for open: on a canvas the length is free.
    Raises `ValueError` where an input shows a wrong word (the oracle would take it for a right
    one), for answers that are no clean word, for a mask that hides some words from some outputs
    (packed rows among them), and for a text that the grammar cannot write.
    """
    place = torch.arange(batch.inputs.shape[1]).expand_as(batch.inputs)
    right = batch.shown == place
    wrong = ~right & (batch.inputs != MASK) & (batch.inputs != PAD)
    if wrong.any():
        row, token = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"input {token} of row {row} shows a word that does not stand there: the floor is "
            "known for hidden words in otherwise clean text; give split=(1, 0, 0)"
        )
    if (batch.source < 0).any():
        raise ValueError("some answers are no clean words: there is no posterior of them")
    visible = dense(batch.mask, batch.inputs.shape[1], batch=len(batch.inputs))[:, 0]
    if (right[:, None, :] & ~visible)[batch.asked].any():
        raise ValueError(f"{batch.mask} hides words from outputs: the floor is that of seeing all")
    owner, found = batch.asked.nonzero()[:, 0], []
    for start in range(0, len(batch.inputs), ROWS):
        some = slice(start, start + ROWS)
        log_probs, dead, _ = gazette.posterior(batch.inputs[some], visible=right[some])
        if dead.any():
            number = start + int(dead.nonzero()[0])
            raise ValueError(f"row {number} is no document of edition {gazette.grammar.edition}")
        mine = (owner >= some.start) & (owner < some.stop)
        found.append(log_probs[owner[mine] - start, batch.source[mine], batch.targets[mine]])
    return -torch.cat(found)


def left_floor(gazette: Gazette, batch: Batch) -> Tensor:
    """-log p of every answer given all words before it, nats (N,), float64; the length is free.

    The floor of `NextToken` and `PrefixLM`, for rows of one document each. Raises `ValueError`
    where an output sees more or less than the words before its answer.
    """
    clean = torch.nn.functional.pad(batch.inputs, (0, 1), value=PAD)
    owner, output = batch.asked.nonzero(as_tuple=True)
    clean[owner, batch.source] = batch.targets
    place = torch.arange(batch.inputs.shape[1])
    visible = dense(batch.mask, len(place), batch=len(batch.inputs))[:, 0][owner, output]
    seen = visible & (batch.shown == place)[owner]
    if not torch.equal(seen, place < batch.source[:, None]):
        raise ValueError(f"{batch.mask}: an output sees more or less than the words on its left")
    found = torch.cat([gazette.surprise(rows) for rows in clean.split(ROWS)])
    return found[owner, batch.source]


def answer_counts(
    model: Model,
    objective: Objective,
    documents: list[Tensor],
    generator: torch.Generator,
    gazette: Gazette | None = None,
    floor: Callable[[Gazette, Batch], Tensor] = answer_floor,
    row: int | None = None,
) -> Tensor:
    """Answers, the model's nats and the oracle's for each document: float64 (documents, 3).

    For objectives of one pass; the model is asked as `evaluate` asks it, the oracle by ``floor``,
    and both are weighted as the objective weighs its answers. Without a gazette the third column
    is 0. ``row``: tokens of a row, for objectives that need a canvas.
    """
    found = torch.zeros(len(documents), 3, dtype=torch.float64)
    for start in range(0, len(documents), ROWS):
        rows = objective.alone(documents[start : start + ROWS], row)
        (batch,) = objective.passes(rows, generator)
        owner = start + batch.asked.nonzero()[:, 0]
        with eval_mode(model):
            columns = [torch.ones(len(owner)), answer_nll(model, objective, batch) * batch.weights]
        if gazette is not None:
            columns.append(floor(gazette, batch) * batch.weights)
        for column, values in enumerate(columns):
            found[:, column].index_add_(0, owner, values.double())
    return found


def bound_gap(counts: Tensor) -> Interval:
    """Nats per document by which a model's bound lies above the entropy, from `answer_counts` of
    `AbsorbingDiffusion`, paired.

    Model and oracle answer the same questions, and the oracle's bound *is* the entropy; the noise
    of which words were hidden is in both and cancels.
    """
    return paired_excess(counts[:, 1], counts[:, 2])


def excess_per_answer(counts: Tensor) -> Interval:
    """Nats per answer that the model needs beyond the oracle, from `answer_counts`, paired."""
    return bootstrap_over(counts, lambda sums: (sums[:, 1] - sums[:, 2]) / sums[:, 0])
