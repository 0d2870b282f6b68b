"""WikiText-2: articles of Wikipedia, two million words to train on."""

from __future__ import annotations

import re
from itertools import pairwise

from .fetching import fetch
from .text import read_text

WIKITEXT2 = ("train", "valid", "test")

# " = Title = " between blank lines, which are one space; sections have " = = Title = = ". Without
# the blank lines four lines of a formula and of a table in the test split would be titles, too.
TITLE = re.compile(r"^ \n( = (?!= ).*(?<! =) = \n)(?= \n)", re.MULTILINE)


def wikitext2(split: str) -> list[str]:
    r"""WikiText-2's articles in order (CC BY-SA 3.0); joined they are the file.

    ``split`` is "train" (fetched: 11 MB), "valid" or "test" (60 articles each). An article begins
    with its title, `` = Title = \n``, the first with a blank line before it. The text is in words
    separated by spaces, rare ones as ``<unk>``; the corpus counts a word for each line end besides.

    Raises `ValueError` for another split, and what `fetch` raises.

    Source: Merity et al., "Pointer Sentinel Mixture Models" (2016).

    >>> wikitext2("validation")
    Traceback (most recent call last):
    ValueError: WikiText-2 has the splits train, valid, test, got 'validation'
    """
    if split not in WIKITEXT2:
        raise ValueError(f"WikiText-2 has the splits {', '.join(WIKITEXT2)}, got {split!r}")
    return articles(read_text(fetch(f"wikitext2-{split}")))


def articles(text: str) -> list[str]:
    r"""A text in WikiText's form, cut before each title; what precedes the first stays with it.

    >>> articles(" \n = A = \n \n a \n \n = = B = = \n \n \n = C = \n \n c \n")
    [' \n = A = \n \n a \n \n = = B = = \n \n \n', ' = C = \n \n c \n']
    """
    starts = [title.start(1) for title in TITLE.finditer(text)]
    borders = [0, *starts[1:], len(text)]
    return [text[a:b] for a, b in pairwise(borders)]
