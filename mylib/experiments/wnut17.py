"""Names in social media (WNUT-17): a causal tagger, an opened one, and one that reads twice.

    python -m mylib.experiments.wnut17          (about 20 minutes on one core)

A small GPT with a token head, from random weights: nothing is pretrained. Tokens are GPT-2's; those
that occur fewer than 3 times in the training text are replaced by their shape (a space before it or
not; a capital in front, all capitals, a digit in it, ...), also in the training text. The causal
tagger is asked at the last piece of a word, the opened one at its first, the one that reads twice
at the last piece in the second reading. After each epoch strict F1 on the development file is taken
(13 BIO tags, Viterbi); training stops when it has not risen for two epochs, and the best epoch is
judged on the official test file, once. Sizes, dropout and learning rate were chosen beforehand with
the opened tagger on the development file, which can only have favoured that one. ``right`` and
``predicted``: entities of each test sentence, one digit each, from which every interval can be
taken; ``gold`` in the JSON file likewise.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import tiktoken
import torch
from torch import Tensor

from ..datasets import Sentence, wnut17
from ..files import data_path
from ..heads import TokenClassifier, align, read_tags
from ..masks import Mask, bidirectional, causal
from ..metrics import entity_counts, entity_f1, f1_of, token_accuracy
from ..model import GPT, GPTConfig
from ..objectives import Tagged, Tagging
from ..patience import fit_patiently
from ..tokenizer import gpt2_tokenizer
from .results import Table, origin

BEGIN = 0
TYPES = ("corporation", "creative-work", "group", "location", "person", "product")
TAGS = ("O", *(f"{place}-{kind}" for kind in TYPES for place in "BI"))
KINDS = ("lower", "Capital", "CAPITALS", "miXed", "digit", "other")
SHAPES = 2 * len(KINDS)  # each with and without a space before it
COLUMNS = ("epoch", "dev_f1", "f1", "argmax_f1", "token_accuracy", "right", "predicted")


class Reader(NamedTuple):
    """Who may look at whom, at which piece of a word it is asked, and whether it reads twice."""

    mask: Mask
    ask: str
    twice: bool


READERS = {
    "causal": Reader(causal, "last", False),
    "open": Reader(bidirectional, "first", False),
    "twice": Reader(causal, "last", True),
}


def shape(piece: bytes) -> int:
    """The number (0 .. SHAPES - 1) of what a piece looks like.

    >>> [shape(piece) for piece in (b" Fathom", b"Fathom", b" BBC", b" 7pm")]
    [7, 1, 8, 10]
    """
    text = piece.decode("utf-8", "replace")
    letters = text.strip()
    if any(c.isdigit() for c in letters):
        kind = "digit"
    elif not letters.isalpha():
        kind = "other"
    elif letters.isupper() and len(letters) > 1:
        kind = "CAPITALS"
    elif letters[0].isupper():
        kind = "Capital"
    else:
        kind = "lower" if letters.islower() else "miXed"
    return KINDS.index(kind) + len(KINDS) * text.startswith(" ")


class Vocabulary:
    """GPT-2's pieces that a training text holds at least ``least`` times; shapes for all others."""

    def __init__(
        self, sentences: Sequence[Sentence], encoding: tiktoken.Encoding, least: int
    ) -> None:
        self.encoding = encoding
        counts: Counter[int] = Counter()
        for sentence in sentences:
            counts.update(align(sentence.words, encoding)[0].tolist())
        kept = sorted(piece for piece, count in counts.items() if count >= least)
        self.number = {piece: 1 + SHAPES + n for n, piece in enumerate(kept)}

    def __len__(self) -> int:
        return 1 + SHAPES + len(self.number)

    def ids(self, pieces: Tensor) -> Tensor:
        """The small numbers of GPT-2's pieces (T,)."""
        return torch.tensor([self._id(piece) for piece in pieces.tolist()], dtype=torch.long)

    def _id(self, piece: int) -> int:
        if piece in self.number:
            return self.number[piece]
        return 1 + shape(self.encoding.decode_single_token_bytes(piece))

    def document(self, sentence: Sentence) -> Tagged:
        """A sentence as tokens, a beginning in front, with the tags of its words."""
        pieces, first, last = align(sentence.words, self.encoding)
        ids = torch.cat([torch.tensor([BEGIN]), self.ids(pieces)])
        tags = torch.tensor([TAGS.index(tag) for tag in sentence.tags], dtype=torch.long)
        return Tagged(ids, tags, first + 1, last + 1)


def digits(counts: Tensor) -> str:
    """Counts of sentences (N,) as one string, a digit each.

    Raises `ValueError` for a count above 9.
    """
    if counts.numel() and int(counts.max()) > 9:
        raise ValueError(f"a sentence with {int(counts.max())} entities does not fit one digit")
    return "".join(map(str, counts.tolist()))


def counted(right: str, predicted: str, gold: str) -> Tensor:
    """What `digits` wrote, as counts (N, 3) for `metrics.bootstrap_over` and `paired_difference`.

    >>> counted("10", "21", "10").tolist()
    [[1, 2, 1], [0, 1, 0]]
    """
    return torch.tensor([[int(c) for c in column] for column in (right, predicted, gold)]).T


def run(
    reader: Reader, vocabulary: Vocabulary, splits: dict, config: GPTConfig, seed: int, how: dict
) -> dict:
    """Train one tagger, stop by the development file, judge it on the test file."""
    objective = Tagging(reader.mask, reader.ask)
    texts = {name: [vocabulary.document(s) for s in some] for name, some in splits.items()}
    if reader.twice:
        texts = {name: [document.twice() for document in some] for name, some in texts.items()}
    gold = {name: [list(s.tags) for s in some] for name, some in splits.items()}
    chance = torch.Generator().manual_seed(seed)
    model = TokenClassifier(GPT.init(config, chance), TAGS, chance)

    def score(model: TokenClassifier) -> float:
        found = read_tags(model, objective, texts["dev"], bio=True)
        return entity_f1(gold["dev"], found).f1

    found = fit_patiently(model, objective, texts["train"], score, seed=seed, progress=False, **how)
    said = read_tags(model, objective, texts["test"], bio=True)
    counts = entity_counts(gold["test"], said)
    alone = read_tags(model, objective, texts["test"])
    return {
        "epoch": found.best,
        "dev_f1": round(max(found.scores), 4),
        "f1": round(float(f1_of(counts.sum(0))), 4),
        "argmax_f1": round(entity_f1(gold["test"], alone).f1, 4),
        "token_accuracy": round(token_accuracy(gold["test"], said), 4),
        "right": digits(counts[:, 0]),
        "predicted": digits(counts[:, 1]),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    results = data_path("gazette.toml").parent / "results"
    parser.add_argument("--out", type=Path, default=results / "wnut17.csv")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--smoke", action="store_true", help="a tiny model, few sentences")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    sizes, some, batch = dict(n_embd=64, n_layer=2, n_head=4, dropout=0.2), None, 32
    if options.smoke:
        sizes, some, batch = dict(n_embd=16, n_layer=1, n_head=2), 40, 8
        options.seeds, options.epochs = [0], 2
    splits = {name: wnut17(name)[:some] for name in ("train", "dev", "test")}
    vocabulary = Vocabulary(splits["train"], gpt2_tokenizer(), least=3)
    longest = max(len(vocabulary.document(s).ids) for each in splits.values() for s in each)
    config = GPTConfig(len(vocabulary), n_positions=2 * longest, **sizes)
    steps = len(splits["train"]) // batch
    how = dict(patience=2, rounds=options.epochs, steps=steps, batch=batch, learning_rate=5e-3)
    about = " ".join(__doc__.split("\n\n")[-1].split())
    gold = [list(sentence.tags) for sentence in splits["test"]]
    facts = {
        **origin("wnut17", argv),
        "about": about,
        "sentences": {name: len(some) for name, some in splits.items()},
        "tags": TAGS,
        "gold": digits(entity_counts(gold, gold)[:, 2]),
    }
    settings = {"least": 3, "config": asdict(config), **how}
    table = Table(options.out, ("reader", "seed"), COLUMNS, settings, facts)
    for seed in options.seeds:
        for name, reader in READERS.items():
            if not table.has(reader=name, seed=seed):
                found = run(reader, vocabulary, splits, config, seed, how)
                table.add(reader=name, seed=seed, **found)


if __name__ == "__main__":
    main()
