"""Chapter 11: a torn sonnet, restored by one network that reads left only or on both sides."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from html import escape

import ipywidgets as widgets
import tiktoken
import torch
from torch import Tensor

from ..masks import Mask, bidirectional, causal
from ..model import GPT
from ..page import Page
from ..sampling import Passes, write
from ..tokenizer import BOS, EOS, FIRST_WORD, MASK
from .panel import Panel, buttons

READERS = ("both sides", "left only")
PASSES = {"one pass": 1, "four passes": 4, "a word a pass": None}
RIGHT = "border-bottom:2px solid #0072B2"
WRONG = "border-bottom:3px double #D55E00"
KEY = (
    f'<span style="{RIGHT}">right</span> &nbsp; <span style="{WRONG}">wrong</span> '
    "[what stood there]"
)


def framed(encoding: tiktoken.Encoding, lines: Sequence[str]) -> Tensor:
    """Lines of verse as one document: <bos>, their tokens, <eos>; int (T,)."""
    words = encoding.encode_ordinary("\n".join(lines) + "\n")
    return torch.tensor([BOS, *words, EOS])


def pieces(encoding: tiktoken.Encoding, ids: Tensor) -> list[str]:
    """The characters of each token, "" for special ones."""
    kept = (i if i >= FIRST_WORD else None for i in ids.tolist())
    raw = (b"" if i is None else encoding.decode_single_token_bytes(i) for i in kept)
    return [piece.decode("utf-8", "backslashreplace") for piece in raw]


def whole_words(encoding: tiktoken.Encoding, ids: Tensor) -> Tensor:
    """Tokens that are a whole word, bool (T,): letters, and no letter or apostrophe beside them."""
    text = pieces(encoding, ids)
    found = []
    for before, piece, after in zip(["", *text], text, [*text[1:], ""], strict=False):
        begins = piece.startswith(" ") or (not before[-1:].isalpha() and before[-1:] != "'")
        ends = not after[:1].isalpha() and after[:1] != "'"
        found.append(piece.removeprefix(" ").isalpha() and begins and ends)
    return torch.tensor(found)


def tear(encoding: tiktoken.Encoding, ids: Tensor, share: float, seed: int) -> Tensor:
    """Which tokens are torn out, bool (T,): a share of those that are whole words."""
    words = whole_words(encoding, ids)
    chance = torch.rand(len(ids), generator=torch.Generator().manual_seed(seed))
    order = chance.masked_fill(~words, 2.0).argsort().argsort()
    return order < round(share * int(words.sum()))


def candidates(encoding: tiktoken.Encoding, ids: Tensor) -> Tensor:
    """Which tokens may stand at each place, as the layout tells, bool (T, V): letters behind a
    space where the sheet has one, else letters with a capital."""
    tokens = pieces(encoding, torch.arange(encoding.n_vocab))
    behind = torch.tensor([t[:1] == " " and t[1:].isalpha() for t in tokens])
    first = torch.tensor([t.isalpha() and t[:1].isupper() for t in tokens])
    spaced = torch.tensor([t.startswith(" ") for t in pieces(encoding, ids)])
    return torch.where(spaced[:, None], behind, first)


def restore(
    model: GPT,
    ids: Tensor,
    holes: Tensor,
    reader: str,
    allowed: Tensor,
    passes: int | None = None,
) -> Tensor:
    """The page (T,) with its holes filled by the likeliest tokens that are ``allowed`` (T, V).

    ``reader``: "both sides" fills what it is surest of, in so many ``passes`` (None: a word a
    pass); "left only" fills from left to right and has its own guesses to read, never what follows.
    """
    page = ids.masked_fill(holes, MASK)
    if not holes.any():
        return page

    @torch.no_grad()
    def likely(rows: Tensor, mask: Mask) -> Tensor:
        return model(rows, mask).masked_fill(~allowed, -torch.inf)

    if reader == "both sides":
        budget = 1 if passes is None else Passes(passes)
        says = functools.partial(likely, mask=bidirectional)
        return write(says, page[None], "confidence", budget, temperature=0).ids[0]
    with torch.no_grad():
        for place in holes.nonzero()[:, 0].tolist():
            says = model(page[None, :place], causal)[0, -1]
            page[place] = says.masked_fill(~allowed[place], -torch.inf).argmax()
    return page


def verse(
    title: str,
    encoding: tiktoken.Encoding,
    ids: Sequence[Tensor],
    holes: Sequence[Tensor] | None = None,
    guesses: Sequence[Tensor] | None = None,
) -> Page:
    """Documents of verse, line by line; holes are blanks, or guesses marked right or wrong.

    In plain text a right guess is followed by (=), a wrong one by (! and what stood there).
    """
    holes = [torch.zeros(len(each), dtype=torch.bool) for each in ids] if holes is None else holes
    shown = [each.masked_fill(torn, MASK) for each, torn in zip(ids, holes, strict=True)]
    shown = shown if guesses is None else guesses
    lines: list[list[str]] = [["", ""]]  # as HTML and as plain text
    for true, torn, said in zip(ids, holes, shown, strict=True):
        was, now = pieces(encoding, true), pieces(encoding, said)
        for place, (old, new) in enumerate(zip(was, now, strict=True)):
            if torn[place]:
                space = " " * old.startswith(" ")
                html, text = _hole(old.strip(), new.strip(), int(said[place]) == MASK)
                lines[-1] = [lines[-1][0] + space + html, lines[-1][1] + space + text]
                continue
            for n, part in enumerate(old.split("\n")):
                if n:
                    lines.append(["", ""])
                lines[-1] = [lines[-1][0] + escape(part), lines[-1][1] + part]
    lines = [line for line in lines if line[1].strip()]
    whole = "<br>".join(html.strip() for html, _ in lines)
    found = Page(title, [(whole, "\n  ".join(t.strip() for _, t in lines))])
    found.key = KEY if guesses is not None else ""
    return found


def _hole(old: str, new: str, blank: bool) -> tuple[str, str]:
    if blank:
        return "____", "____"
    if old == new:
        return f'<span style="{RIGHT}" title="right">{escape(new)}</span>', f"{new}(=)"
    html = f'<span style="{WRONG}" title="wrong">{escape(new) or "&middot;"}</span>'
    return f"{html}<small>[{escape(old)}]</small>", f"{new}(!{old})"


class TornSonnet(Panel):
    """Tear a sonnet, choose who restores it, and count the words that come back."""

    def __init__(self, model: GPT, encoding: tiktoken.Encoding, ids: Sequence[Tensor]) -> None:
        allowed = [candidates(encoding, page) for page in ids]

        def draw(state: dict) -> str:
            share, seed, reader = state["torn"] / 100, state["tear"], state["reader"]
            holes = [tear(encoding, page, share, seed + n) for n, page in enumerate(ids)]
            passes = PASSES[state["passes"]]
            filled = [
                restore(model, page, h, reader, may, passes)
                for page, h, may in zip(ids, holes, allowed, strict=True)
            ]
            same = sum(
                int((said == page)[h].sum())
                for said, page, h in zip(filled, ids, holes, strict=True)
            )
            count = f"{same} of {sum(int(h.sum()) for h in holes)} torn words come back"
            steps = state["passes"] if reader == "both sides" else "a word a pass, from the left"
            return verse(f"{count} ({reader}, {steps})", encoding, ids, holes, filled)._repr_html_()

        super().__init__(
            {
                "torn": widgets.IntSlider(30, 10, 90, 10, description="% torn"),
                "tear": widgets.IntSlider(0, 0, 9, description="tear no."),
                "passes": buttons("passes", PASSES),
                "reader": buttons("reader", READERS),
            },
            draw,
        )
