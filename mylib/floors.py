"""What a perfect reader would answer to the very batches that a model is asked.

`mylib.gazette` knows the posterior of every word; here it answers an objective's questions, so that
model and oracle can be compared answer by answer. Units: nats.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .gazette import Gazette
from .objectives import Batch
from .tokenizer import MASK, PAD

ROWS = 64  # at once: (ROWS, T, V) numbers are held


def answer_floor(gazette: Gazette, batch: Batch) -> Tensor:
    """-log p of every answer given all words that the batch shows, nats (N,), float64.

    The floor of masked objectives, for rows of one document each and for outputs that may look
    everywhere. Raises `ValueError` where an input shows a wrong word (the oracle would take it for
    a right one), and for answers that are no clean word.
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
    owner, found = batch.asked.nonzero()[:, 0], []
    for start in range(0, len(batch.inputs), ROWS):
        some = slice(start, start + ROWS)
        log_probs = gazette.posterior(batch.inputs[some], visible=right[some]).log_probs
        mine = (owner >= some.start) & (owner < some.stop)
        found.append(log_probs[owner[mine] - start, batch.source[mine], batch.targets[mine]])
    return -torch.cat(found)
