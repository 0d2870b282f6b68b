"""All regimes on one real text, WikiText-2: the same network, data and steps, one table.

    python -m mylib.experiments.wikitext         (trained on valid.txt: an hour on one core)
    python -m mylib.experiments.wikitext --train train --epochs 5 --seeds 0 1 2 --device cuda

Articles are cut into pieces of 126 tokens between <bos> and <eos>; no piece crosses the end of an
article. Tokens: the first ``--tokens`` of GPT-2's byte-pair encoding. Each regime trains a new GPT
for ``--epochs`` passes over the pieces of the training file and is judged on all pieces of
test.txt. ``mark``: "exact" is -log p of the piece, whole; "bound" is an upper bound of it; both are
given in ``bits`` per character, <eos> and shorter last pieces included. "not comparable" answers
another question (some words hidden, a part given), "leak" sees its answers: they have ``nats`` per
answer alone, which may not be ranked. ``leaks``: paths from an answer to its question that the
leak check finds in 16 tokens of a piece. Intervals: articles drawn with replacement, one network.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..convert import load_gpt2, with_vocabulary
from ..datasets import wikitext2
from ..evaluation import answer_nll, asked_passes
from ..files import data_path
from ..leaks import certificate
from ..masks import bidirectional
from ..metrics import Interval, bootstrap_over
from ..model import GPT, GPTConfig
from ..objectives import (
    AbsorbingDiffusion,
    Denoising,
    ForwardBackward,
    MaskedLM,
    NextMasked,
    NextToken,
    Objective,
    PrefixLM,
    PreviousToken,
)
from ..tokenizer import BOS, EOS, FIRST_WORD, gpt2_tokenizer
from ..train import fit
from ..vocabulary import compact, encode_long
from .results import Table, log_frequencies, origin

WINDOW = 128
VALUES = ("mark", "leaks", "answers", "nats", "nats_low", "nats_high")
VALUES += ("bits", "bits_low", "bits_high", "seconds")


@dataclass(frozen=True)
class Pieces:
    """Pieces of the articles of a text: the article of each, and the characters of each article."""

    documents: list[Tensor]
    article: Tensor
    characters: Tensor

    @classmethod
    def of(cls, articles: list[str], encoding) -> Pieces:
        documents, owner = [], []
        for number, text in enumerate(articles):
            for words in encode_long(encoding, text).split(WINDOW - 2):
                documents.append(torch.cat([torch.tensor([BOS]), words, torch.tensor([EOS])]))
                owner.append(number)
        characters = torch.tensor([len(text) for text in articles], dtype=torch.float64)
        return cls(documents, torch.tensor(owner), characters)


@dataclass(frozen=True)
class Judged:
    """One question to a trained network. ``turn``: which pass of the objective; ``least``: asked
    are pieces of more tokens."""

    name: str
    objective: Objective
    mark: str
    turn: int = 0
    least: int = 0


def regimes(tokens: int) -> dict[str, tuple[Objective, list[Judged]]]:
    """What each network is trained on, and what it is asked."""
    words = range(FIRST_WORD, tokens)
    blanks = Judged("15 % hidden", MaskedLM(0.15, (1, 0, 0), words), "not comparable")
    half = Judged("rest, 64 given", PrefixLM(64), "not comparable", least=64)
    masked, ahead = MaskedLM(0.15, replacements=words), NextMasked(0.15, replacements=words)
    hidden = NextMasked(0.15, (1, 0, 0), words)
    repair, diffusion = Denoising(replacements=words), AbsorbingDiffusion()
    open_, both = NextToken(bidirectional), ForwardBackward(p_bw=1.0)
    return {
        "next": (NextToken(), [Judged("forward", NextToken(), "exact"), half]),
        "previous": (PreviousToken(), [Judged("backward", PreviousToken(), "exact")]),
        "both ways": (
            both,
            [Judged("forward", both, "exact"), Judged("backward", both, "exact", turn=1)],
        ),
        "prefix": (PrefixLM(), [Judged("forward", PrefixLM(1), "exact"), half]),
        "masked": (masked, [blanks]),
        "next masked": (ahead, [Judged("15 % hidden", hidden, "not comparable")]),
        "denoising": (repair, [Judged("itself", repair, "not comparable")]),
        "diffusion": (diffusion, [Judged("any order", diffusion, "bound"), blanks]),
        "next, mask open": (open_, [Judged("forward", open_, "leak")]),
    }


def counts_of(model: GPT, judged: Judged, pieces: Pieces) -> Tensor:
    """Answers, weighted nats and characters of each article: float64 (articles, 3)."""
    found = torch.zeros(len(pieces.characters), 3, dtype=torch.float64)
    found[:, 2] = pieces.characters
    kept = [i for i, text in enumerate(pieces.documents) if len(text) > judged.least]
    article, documents = pieces.article[kept], [pieces.documents[i] for i in kept]
    passes = asked_passes(model, judged.objective, documents, batch=32, row=WINDOW)
    for start, number, batch in passes:
        if number == judged.turn:
            owner = article[start + batch.asked.nonzero()[:, 0]]
            nats = answer_nll(model, judged.objective, batch) * batch.weights
            found[:, 0].index_add_(0, owner, torch.ones(len(owner), dtype=torch.float64))
            found[:, 1].index_add_(0, owner, nats.double())
    return found


def summary(counts: Tensor, mark: str) -> dict:
    """Nats per answer and, of a whole text, bits per character, with intervals over articles.

    A bound's answers are weighted, so it has no price per answer.
    """
    counts = counts[counts[:, 0] > 0]
    found = {"mark": mark, "answers": int(counts[:, 0].sum())}
    found |= dict.fromkeys(("nats", "nats_low", "nats_high", "bits", "bits_low", "bits_high"), "")
    if mark != "bound":
        nats = bootstrap_over(counts, lambda sums: sums[:, 1] / sums[:, 0])
        found |= _named("nats", nats)
    if mark in ("exact", "bound"):
        bits = bootstrap_over(counts, lambda sums: sums[:, 1] / sums[:, 2] / math.log(2))
        found |= _named("bits", bits)
    return found


def _named(name: str, interval: Interval) -> dict[str, float]:
    names = (name, f"{name}_low", f"{name}_high")
    return dict(zip(names, (round(x, 4) for x in interval), strict=True))


def unigram(trained: Pieces, pieces: Pieces, tokens: int) -> Tensor:
    """The counts of token frequencies of the training pieces, one added to each."""
    log_p = log_frequencies(torch.cat([text[1:] for text in trained.documents]), tokens)
    found = torch.zeros(len(pieces.characters), 3, dtype=torch.float64)
    found[:, 2] = pieces.characters
    for owner, text in zip(pieces.article.tolist(), pieces.documents, strict=True):
        found[owner, 0] += len(text) - 1
        found[owner, 1] -= log_p[text[1:]].sum()
    return found


def leaks(judged: Judged, pieces: Pieces, layers: int) -> int:
    size = judged.least + 16
    short = [torch.cat([text[: size - 1], text[-1:]]) for text in pieces.documents[:2]]
    rows = judged.objective.alone(short, size)
    return len(certificate(judged.objective, rows, layers).leaks)


def start(options: argparse.Namespace, config: GPTConfig, encoding, seed: int) -> GPT:
    """A new network, or GPT-2's with the rows of its embedding that the tokens need."""
    if options.gpt2 is None:
        return GPT.init(config, torch.Generator().manual_seed(seed)).to(options.device)
    model = load_gpt2(options.gpt2)
    return with_vocabulary(model, gpt2_tokenizer(), encoding).to(options.device)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    results = data_path("gazette.toml").parent / "results"
    parser.add_argument("--out", type=Path, default=results / "wikitext.csv")
    parser.add_argument("--train", choices=["valid", "train"], default="valid")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16, help="pieces a step")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--gpt2", help="start from GPT-2's weights: a folder or a name")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--smoke", action="store_true", help="tiny networks, few pieces")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    encoding = compact(gpt2_tokenizer(), size=options.tokens)
    few = 3 if options.smoke else None
    trained, test = (
        Pieces.of([text[: 900 if few else None] for text in wikitext2(split)[:few]], encoding)
        for split in (options.train, "test")
    )
    sizes = dict(n_embd=options.width, n_layer=options.layers)
    sizes = dict(n_embd=16, n_layer=1, n_head=2) if options.smoke else sizes
    config = GPTConfig(encoding.n_vocab, n_positions=WINDOW, **sizes)
    names = ("train", "epochs", "batch", "tokens", "gpt2")
    settings = {name: getattr(options, name) for name in names} | {"config": asdict(config)}
    steps = max(2, options.epochs * len(trained.documents) // options.batch)
    facts = {**origin("wikitext", argv), "about": " ".join(__doc__.split("\n\n")[-1].split())}
    facts |= {"device": options.device, "steps": steps, "test_articles": len(test.characters)}
    for name, pieces in (("train", trained), ("test", test)):
        facts |= {f"{name}_pieces": len(pieces.documents)}
        facts |= {f"{name}_tokens": sum(len(text) - 2 for text in pieces.documents)}
        facts |= {f"{name}_characters": int(pieces.characters.sum())}
    table = Table(options.out, ("regime", "judged", "seed"), VALUES, settings, facts)
    row = summary(unigram(trained, test, encoding.n_vocab), "exact") | {"seconds": 0}
    table.add(regime="frequencies", judged="forward", seed="", leaks=0, **row)
    for seed in options.seeds:
        for name, (objective, questions) in regimes(encoding.n_vocab).items():
            if all(table.has(regime=name, judged=one.name, seed=seed) for one in questions):
                continue
            began = time.perf_counter()
            model = start(options, config, encoding, seed)
            how = dict(batch=options.batch, row=WINDOW, seed=seed, progress=False)
            fit(model, objective, trained.documents, steps, **how)
            seconds = round(time.perf_counter() - began, 1)
            for one in questions:
                found = summary(counts_of(model, one, test), one.mark)
                found |= {"leaks": leaks(one, test, model.config.n_layer), "seconds": seconds}
                table.add(regime=name, judged=one.name, seed=seed, **found)


if __name__ == "__main__":
    main()
