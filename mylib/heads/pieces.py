"""Words and their pieces: where each word of a sentence begins and ends among the tokens."""

from __future__ import annotations

from collections.abc import Sequence

import tiktoken
import torch
from torch import Tensor

from ..objectives import Tagged
from ..tokenizer import spans


def align(words: Sequence[str], encoding: tiktoken.Encoding) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens of a sentence, and of each word its first and last token: (T,), (W,), (W,).

    The words are joined by single spaces and encoded as one text; a token belongs to every word
    whose characters it overlaps (`tokenizer.spans`). Raises `ValueError` for a sentence without
    words, and for a word without any token of its own, such as an empty one.

    >>> from mylib.tokenizer import load_tokenizer
    >>> ids, first, last = align(["Ada", "lost", "umbrellas"], load_tokenizer())
    >>> (last - first + 1).tolist()
    [1, 1, 6]
    """
    if not words:
        raise ValueError("a sentence without words")
    text = " ".join(words)
    found = encoding.encode_ordinary(" " + text)
    places = torch.tensor(spans(encoding, text)).view(-1, 2)
    first, last, start = [], [], 0
    for number, word in enumerate(words):
        stop = start + len(word)
        mine = ((places[:, 0] < stop) & (places[:, 1] > start)).nonzero()[:, 0]
        if len(mine) == 0:
            raise ValueError(f"word {number}, {word!r}, has no token")
        first.append(int(mine[0]))
        last.append(int(mine[-1]))
        start = stop + 1
    return torch.tensor(found), torch.tensor(first), torch.tensor(last)


def tagged(
    words: Sequence[str],
    tags: Sequence[str],
    classes: Sequence[str],
    encoding: tiktoken.Encoding,
    begin: Sequence[int] = (),
    end: Sequence[int] = (),
) -> Tagged:
    """A sentence as a `Tagged` document; ``begin`` and ``end`` are tokens around it.

    ``classes`` gives the tags their numbers. Raises `ValueError` for other numbers of words and
    tags, and for a tag that is not among the classes.
    """
    if len(words) != len(tags):
        raise ValueError(f"{len(words)} words have {len(tags)} tags")
    if unknown := sorted(set(tags) - set(classes)):
        raise ValueError(f"unknown tags {unknown}; known: {list(classes)}")
    ids, first, last = align(words, encoding)
    ids = torch.cat([torch.tensor([*begin], dtype=torch.long), ids, torch.tensor([*end]).long()])
    numbers = torch.tensor([list(classes).index(tag) for tag in tags], dtype=torch.long)
    return Tagged(ids, numbers, first + len(begin), last + len(begin))
