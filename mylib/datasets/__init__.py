"""Text that nobody here wrote: files, folders, tagged sentences, questions, and public corpora."""

from .conll import Sentence, read_conll, wnut17
from .fetching import CORPORA, fetch
from .squad import Answer, Example, read_squad
from .text import Stream, read_text, tiny_shakespeare

__all__ = [
    "CORPORA",
    "Answer",
    "Example",
    "Sentence",
    "Stream",
    "fetch",
    "read_conll",
    "read_squad",
    "read_text",
    "tiny_shakespeare",
    "wnut17",
]
