"""The Gazette as a reader sees it: stories set as a page, with marks on their words.

HTML without scripts, colours that read in a light and in a dark theme, and marks that are never
told by colour alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from torch import Tensor

from .tokenizer import FIRST_WORD, MASK, load_tokenizer

# What can be said about a word, how it looks, and how the key under the page explains it.
MARKS = {
    "given": ("font-weight:bold", "given"),
    "written": ("border-bottom:2px solid #0072B2", "written by the model"),
    "wrong": ("border-bottom:3px double #D55E00", "another word than in the original"),
    "flag": ("outline:2px dashed #D55E00;outline-offset:1px", "flagged by the model"),
}
PAGE = (
    "font-family:Georgia,serif;line-height:1.9;max-width:46em;border-top:3px double currentColor;"
    "border-bottom:1px solid currentColor;padding:0.2em 0 0.6em"
)


class Page:
    """Stories as HTML; the last value of a notebook cell shows it, `print` gives plain text."""

    def __init__(self, title: str, paragraphs: Sequence[tuple[str, str]], key: str = "") -> None:
        self.title, self.paragraphs, self.key = title, list(paragraphs), key

    def _repr_html_(self) -> str:
        body = "".join(f'<p style="margin:0.5em 0">{html}</p>' for html, _ in self.paragraphs)
        key = f'<p style="margin:0.8em 0 0;font-size:85%">{self.key}</p>' if self.key else ""
        head = f'<p style="margin:0.2em 0;font-variant:small-caps">{escape(self.title)}</p>'
        return f'<div style="{PAGE}">{head}{body}{key}</div>'

    def __repr__(self) -> str:
        return "\n".join([self.title, *(f"  {text}" for _, text in self.paragraphs)])


def page(
    title: str,
    stories: Sequence[Tensor],
    marks: Sequence[Mapping[int, str]] | None = None,
    numbers: Sequence[Mapping[int, int]] | None = None,
) -> Page:
    """Stories (T,) under a title.

    ``marks``: for each story {position: name of `MARKS`}; ``numbers``: {position: number}, set
    small behind the word. [MASK] is a blank; other special tokens are left out.

    Raises `ValueError` for an unknown mark, and for lists that do not fit the stories.
    """
    marks = [{}] * len(stories) if marks is None else marks
    numbers = [{}] * len(stories) if numbers is None else numbers
    if not len(stories) == len(marks) == len(numbers):
        raise ValueError(f"{len(stories)} stories, {len(marks)} marks, {len(numbers)} numbers")
    used = {name for each in marks for name in each.values()}
    if unknown := used - MARKS.keys():
        raise ValueError(f"a mark is one of {list(MARKS)}, not {sorted(unknown)}")
    paragraphs = [_paragraph(*each) for each in zip(stories, marks, numbers, strict=True)]
    key = " &nbsp; ".join(
        f'<span style="{style}">{escape(meaning)}</span>'
        for name, (style, meaning) in MARKS.items()
        if name in used
    )
    return Page(title, paragraphs, key)


def _paragraph(ids: Tensor, marks: Mapping[int, str], numbers: Mapping[int, int]) -> tuple:
    encoding, html, text = load_tokenizer(), "", ""
    for place, token in enumerate(ids.tolist()):
        if token == MASK:
            space, word = " ", "____"
        elif token < FIRST_WORD:
            continue
        else:
            piece = encoding.decode_single_token_bytes(token).decode("utf-8", "backslashreplace")
            space, word = (" " if piece.startswith(" ") else ""), piece.removeprefix(" ")
        html, text = html + space, text + space + word
        if place in marks:
            style, meaning = MARKS[marks[place]]
            html += f'<span style="{style}" title="{escape(meaning)}">{escape(word)}</span>'
            text += {"flag": "(?)", "wrong": "(!)"}.get(marks[place], "")
        else:
            html += escape(word)
        if place in numbers:
            html += f'<sub style="font-size:65%">{numbers[place]}</sub>'
            text += f"[{numbers[place]}]"
    return html.strip(), text.strip()
