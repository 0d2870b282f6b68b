"""Torn pages: which way to make one vector of a text finds the story that a sentence came from?

    python -m mylib.experiments.embeddings      (about 12 minutes on one core)

Pages of the Sunday edition are torn before their last sentence; 20 piles of 32 pages are the exam,
the same for all. "found": the share of sentences whose own story scores best of the 32 (ties are
shared). "nats": minus log p of the own story, the contrastive loss. The shipped mixed model is
trained for 150 steps of 32 fresh pages, for each way to pool, each mask and each seed; "before" is
the share that it finds untrained. "texts": read once, or twice (only the second reading is pooled).
"pages": what it is trained on, and for "position" examined on, too: "none" are torn pages,
"sentence" leaves the sentence in its story, "position" lets it keep its place on the page.
Rows whose "pool" is a name of `REFERENCES` need no training: the oracle; the oracle that is told
the length of the right story; the lengths alone; words in common, weighted by rarity; the shipped
causal language model, which reads each story with each sentence. Lengths and rarity were counted
on 4,000 other pages.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..embeddings import Embedder, Matching, Torn, TornOracle, TornPages, found, surprise
from ..files import data_path
from ..gazette import Gazette
from ..masks import bidirectional, causal
from ..model import GPT
from ..objectives import Rows
from ..train import fit
from .results import Table, origin

PILE, PILES, STEPS = 32, 20, 150
REFERENCES = ("oracle", "oracle with length", "lengths", "words", "language model")
MASKS = {"causal": causal, "open": bidirectional}
# pages, pool, mask, texts
GRID = [
    ("none", pool, mask, "once") for pool in ("mean", "last", "late", "first") for mask in MASKS
]
GRID += [("none", "mean", "causal", "twice"), ("none", "late", "causal", "twice")]
GRID += [("sentence", "mean", "open", "once"), ("position", "mean", "open", "once")]


class Twice:
    """Torn pages whose texts are read twice over."""

    def __init__(self, pages: TornPages) -> None:
        self.pages = pages

    def sample(self, n: int, generator: torch.Generator) -> list[Torn]:
        return [page.twice() for page in self.pages.sample(n, generator)]


def piles(pages: TornPages, count: int) -> list[list[Torn]]:
    """The exam: piles of pages that depend on their number alone."""
    return [pages.sample(PILE, torch.Generator().manual_seed(10_000 + i)) for i in range(count)]


def judged(scores: list[Tensor]) -> dict[str, float]:
    """What a method found, and its loss, over all piles."""
    return {
        "found": round(float(torch.cat([found(each) for each in scores]).mean()), 4),
        "nats": round(float(torch.cat([surprise(each) for each in scores]).mean()), 4),
    }


@torch.no_grad()
def scored(model: Embedder, objective: Matching, exam: list[list[Torn]]) -> list[Tensor]:
    return [model.answers(objective.batch(pile)) for pile in exam]


def given_length(log_p: Tensor, pile: list[Torn]) -> Tensor:
    """The oracle's scores, all stories left out that are not as long as the right one."""
    length = torch.tensor([len(page.story) for page in pile])
    return log_p.masked_fill(length[None] != length[:, None], -torch.inf)


def length_table(others: list[Torn], longest: int) -> Tensor:
    """log p(length of the sentence | length of the story), counted, (lengths, lengths)."""
    counts = torch.full((longest, longest), 0.01)
    for page in others:
        counts[len(page.sentence), len(page.story)] += 1
    return (counts / counts.sum(0)).log()


def by_lengths(table: Tensor, pile: list[Torn]) -> Tensor:
    sentence, story = (
        torch.tensor([len(getattr(p, n)) for p in pile]) for n in ("sentence", "story")
    )
    return table[sentence][:, story]


def rarity(others: list[Torn], words: int) -> Tensor:
    """log of the inverse share of stories that have a word, (words,)."""
    seen = sum(F.one_hot(page.story.unique(), words).sum(0) for page in others)
    return (len(others) / (seen + 1)).log()


def by_words(weights: Tensor, pile: list[Torn]) -> Tensor:
    """Cosine of the weighted sets of words of each sentence and each story, (Q, S)."""

    def bag(texts: list[Tensor]) -> Tensor:
        rows = [F.one_hot(text[1:-1].unique(), len(weights)).sum(0) * weights for text in texts]
        return F.normalize(torch.stack(rows), dim=1)

    return bag([page.sentence for page in pile]) @ bag([page.story for page in pile]).T


@torch.no_grad()
def by_language_model(model: GPT, pile: list[Torn]) -> Tensor:
    """log p(sentence | story) of a causal model, (Q, S): it reads S pages for each sentence."""
    scores = []
    for page in pile:
        texts = [torch.cat([other.story[:-1], page.sentence[1:]]) for other in pile]
        rows = Rows.padded(texts)
        log_p = model(rows.tokens[:, :-1]).log_softmax(-1)
        each = log_p.gather(2, rows.tokens[:, 1:, None])[..., 0]
        last = rows.valid & (rows.from_end < len(page.sentence) - 1)
        scores.append((each * last[:, 1:]).sum(1))
    return torch.stack(scores)


def references(gazette: Gazette, exam: list[list[Torn]]) -> dict[str, list[Tensor]]:
    """The scores of what needs no training, by name."""
    oracle, pages = TornOracle(gazette), TornPages(gazette)
    others = pages.sample(4000, torch.Generator().manual_seed(5))
    table, weights = length_table(others, gazette.length), rarity(others, gazette.vocab_size)
    writer = GPT.load(data_path("checkpoints/causal.safetensors"))
    exact = [oracle.log_probs([p.sentence for p in x], [p.story for p in x]) for x in exam]
    scores = (
        exact,
        [given_length(each, pile) for each, pile in zip(exact, exam, strict=True)],
        [by_lengths(table, pile) for pile in exam],
        [by_words(weights, pile) for pile in exam],
        [by_language_model(writer, pile) for pile in exam],
    )
    return dict(zip(REFERENCES, scores, strict=True))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    results = data_path("gazette.toml").parent / "results"
    parser.add_argument("--out", type=Path, default=results / "embeddings.csv")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--smoke", action="store_true", help="one pile, two steps, one seed")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    steps, count = STEPS, PILES
    if options.smoke:
        steps, count, options.seeds = 2, 1, [0]
    gazette = Gazette.load("sunday")
    table = Table(
        options.out,
        ("seed", "pages", "pool", "mask", "texts"),
        ("before", "found", "nats"),
        {"steps": steps, "batch": PILE, "piles": count, "start": "mixed"},
        {**origin("embeddings", argv), "about": " ".join(__doc__.split("\n\n")[-1].split())},
    )
    key = dict(seed="", pages="none", mask="", texts="once")
    if not table.has(**key, pool=REFERENCES[-1]):
        for name, scores in references(gazette, piles(TornPages(gazette), count)).items():
            table.add(**key, pool=name, before="", **judged(scores))
    for seed in options.seeds:
        for row in GRID:
            if not table.has(seed=seed, **dict(zip(table.key[1:], row, strict=True))):
                table.add(**measure(gazette, seed, row, steps, count))


def measure(gazette: Gazette, seed: int, row: tuple, steps: int, count: int) -> dict:
    """Train one model and examine it."""
    leak, pool, mask, texts = row
    # A model that saw the sentence in its story is examined on pages without it.
    exam = piles(TornPages(gazette, "position" if leak == "position" else "none"), count)
    source = TornPages(gazette, leak)
    if texts == "twice":
        source, exam = Twice(source), [[page.twice() for page in pile] for pile in exam]
    base = GPT.load(data_path("checkpoints/mixed.safetensors"))
    model, objective = Embedder(base, pool, texts == "twice"), Matching(MASKS[mask])
    before = judged(scored(model, objective, exam))["found"]
    fit(model, objective, source, steps, batch=PILE, seed=seed, progress=False)
    values = dict(zip(("pages", "pool", "mask", "texts"), row, strict=True))
    return dict(seed=seed, **values, before=before, **judged(scored(model, objective, exam)))


if __name__ == "__main__":
    main()
