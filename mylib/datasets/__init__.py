"""Text that nobody here wrote: files, folders, tagged sentences, questions, and public corpora."""

from .conll import Sentence, read_conll, wnut17
from .fetching import CORPORA, Corpus, fetch
from .squad import Answer, Example, read_squad
from .text import Stream, read_parts, read_text, tiny_shakespeare
from .tokens import open_tokens, write_tokens
from .wikitext import wikitext2

__all__ = [
    "CORPORA",
    "Answer",
    "Corpus",
    "Example",
    "Sentence",
    "Stream",
    "fetch",
    "open_tokens",
    "read_conll",
    "read_parts",
    "read_squad",
    "read_text",
    "tiny_shakespeare",
    "wikitext2",
    "wnut17",
    "write_tokens",
]
