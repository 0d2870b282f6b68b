"""Tags that fit together: the best sequence of BIO tags, not the best tag at each word.

K tags, W words.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def bio_steps(tags: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Which tag may begin a sentence, bool (K,), and which may follow which, bool (K, K).

    ``I-x`` stands only behind ``B-x`` or ``I-x``. Row: the tag before; column: the tag after.

    >>> bio_steps(["O", "B-PER", "I-PER"])[1].int().tolist()
    [[1, 1, 0], [1, 1, 1], [1, 1, 1]]
    """
    tags = list(tags)
    for number, tag in enumerate(tags):
        if tag != "O" and tag[:2] not in ("B-", "I-"):
            raise ValueError(f"tag {number} is {tag!r}; BIO tags are O, B-x and I-x")
    first = torch.tensor([not tag.startswith("I-") for tag in tags])
    after = [
        [not tag.startswith("I-") or (before[2:] == tag[2:] and before != "O") for tag in tags]
        for before in tags
    ]
    return first, torch.tensor(after)


def viterbi(log_probs: Tensor, tags: Sequence[str]) -> list[str]:
    """The likeliest sequence of tags that BIO allows, for one sentence.

    ``log_probs`` (W, K): log p of each tag at each word, taken as independent but for the rule
    that `bio_steps` gives. Raises `ValueError` where no allowed sequence has a probability above 0.
    Source: Viterbi, "Error Bounds for Convolutional Codes and an Asymptotically Optimum Decoding
    Algorithm" (1967).

    >>> p = torch.tensor([[0.1, 0.5, 0.4, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0]])
    >>> viterbi(p.log(), ["O", "B-PER", "B-LOC", "I-PER", "I-LOC"])
    ['B-LOC', 'I-LOC']
    """
    if log_probs.dim() != 2 or log_probs.shape[1] != len(tags):
        raise ValueError(f"log_probs are (words, {len(tags)} tags), got {tuple(log_probs.shape)}")
    if not (log_probs < torch.inf).all():
        raise ValueError("log_probs hold NaN or inf")
    if len(log_probs) == 0:
        return []
    log_probs = log_probs.double()  # sums over many words: bfloat16 would lose whole tags
    first, after = (each.to(log_probs.device) for each in bio_steps(tags))
    closed = log_probs.new_zeros(after.shape).masked_fill(~after, -torch.inf)
    score = log_probs[0].masked_fill(~first, -torch.inf)
    back = []
    for here in log_probs[1:]:
        best = (score[:, None] + closed).max(0)  # over the tag before
        back.append(best.indices)
        score = best.values + here
    if score.max() == -torch.inf:
        raise ValueError("no sequence of tags that BIO allows has a probability above 0")
    path = [int(score.argmax())]
    for choice in reversed(back):
        path.append(int(choice[path[-1]]))
    return [tags[k] for k in reversed(path)]
