"""Sentences with one tag a word, in the column files of CoNLL's shared tasks."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from pathlib import Path

from ..metrics.entities import is_tag
from .fetching import fetch

BLANK = " \t"  # no other white space separates anything: tweets have words of no-break spaces
DOCUMENT = re.compile(r"-DOCSTART-(?=[ \t]|$)")
WNUT17 = ("train", "dev", "test")


@dataclass(frozen=True)
class Sentence:
    """One sentence: its words and as many tags.

    Raises `ValueError` for different numbers of the two.

    >>> Sentence(("Ada", "wrote"), ("B-person", "O")).tags
    ('B-person', 'O')
    """

    words: tuple[str, ...]
    tags: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.words) != len(self.tags):
            raise ValueError(f"{len(self.words)} words with {len(self.tags)} tags")


def read_conll(path: str | Path, tag_column: int = -1) -> list[Sentence]:
    r"""The sentences of a file with one word a line: the word first, its tag in ``tag_column``.

    Columns are separated by tabs if the file has any, else by spaces; blank lines (of spaces and
    tabs at most) and ``-DOCSTART-`` lines end a sentence. Nothing is a comment: "#" is a word.
    Tags stand as in the file, also an I-x that begins an entity (IOB1, as in CoNLL-2003's own
    files). Raises `FileNotFoundError`, and `ValueError` with file and line for bytes that are not
    UTF-8, one column only, another number of columns than before, an empty word, a tag that is
    not O, B-x or I-x, and a file without sentences.

    Source: Tjong Kim Sang and De Meulder, "Introduction to the CoNLL-2003 Shared Task" (2003).

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "two.conll"
    ...     _ = path.write_text("Ada\tB-person\n#\tO\n\nShe\tO\n")
    ...     [sentence.words for sentence in read_conll(path)]
    [('Ada', '#'), ('She',)]
    """
    path = Path(path)
    lines = _lines(path)
    filled = [line for line in lines if not _between(line)]
    separator = "\t" if any("\t" in line for line in filled) else " "
    width = len(_columns(filled[0], separator)) if filled else 0
    sentences: list[Sentence] = []
    pairs: list[tuple[str, str]] = []
    for number, line in enumerate([*lines, ""], start=1):  # the last sentence ends, too
        if not _between(line):
            try:
                pairs.append(_pair(_columns(line, separator), width, tag_column))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}, in {line[:80]!r}") from None
        elif pairs:
            words, tags = zip(*pairs, strict=True)
            sentences.append(Sentence(words, tags))
            pairs = []
    if not sentences:
        raise ValueError(f"no sentences in {path}")
    return sentences


def _lines(path: Path) -> list[str]:
    """The lines as they are; `splitlines` would cut words at characters like U+0085."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    data = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {number}: not UTF-8 text: {error.reason}") from error
    return [line.removesuffix("\r") for line in text.split("\n")]


def _between(line: str) -> bool:
    return not line.strip(BLANK) or DOCUMENT.match(line) is not None


def _columns(line: str, separator: str) -> list[str]:
    if separator == "\t":
        return line.split("\t")
    return [column for column in line.split(" ") if column]  # some files align with spaces


def _pair(columns: list[str], width: int, tag_column: int) -> tuple[str, str]:
    """Word and tag of a line, or what is wrong with it."""
    if len(columns) == 1:
        raise ValueError("one column, expected a word and a tag")
    if len(columns) != width:
        raise ValueError(f"{len(columns)} columns, but {width} in the first filled line")
    if not -width <= tag_column < width or tag_column % width == 0:
        raise ValueError(f"no tags in column {tag_column} of {width} (column 0 has the words)")
    word, tag = columns[0], columns[tag_column]
    if not word:
        raise ValueError("an empty word")
    if not is_tag(tag):
        raise ValueError(f"tag {tag!r}, expected O, B-x or I-x")
    return word, tag


def wnut17(split: str) -> list[Sentence]:
    """WNUT-17's sentences from social media, with rare and new names (CC BY 4.0).

    ``split`` is "train" (3394 sentences), "dev" (1009) or "test" (1287); fetched on first use.
    Raises `ValueError` for another split, and what `fetch` raises.

    Source: Derczynski et al., "Results of the WNUT2017 Shared Task on Novel and Emerging Entity
    Recognition" (2017).

    >>> wnut17("validation")
    Traceback (most recent call last):
    ValueError: WNUT-17 has the splits train, dev, test, got 'validation'
    """
    if split not in WNUT17:
        raise ValueError(f"WNUT-17 has the splits {', '.join(WNUT17)}, got {split!r}")
    return read_conll(fetch(f"wnut17-{split}"))
