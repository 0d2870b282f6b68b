"""What opening is worth to a reader of questions, by where the evidence stands.

    python -m mylib.experiments.questions                           (about 15 minutes on one core)
    python -m mylib.experiments.questions --folds 5 --patience 20   (about 15 minutes)

*Dear Doctor* letters of the Evening edition, the question in front; a fifth of the questions have
no answer, of the others a share ``right`` has the deciding words to the right of the answer. A
small GPT with a start and an end head, under a causal mask, an open one, or a causal one that
reads the text twice. At each setting it is trained on 5,120 questions of that setting, each read
once, and judged on 500 fresh ones, the same for all readers and seeds; an answer is given where it
is likelier than none (nothing is tuned). ``bits``: question by question, 1 where the answer matches
exactly.

With ``--folds``: cross-validation as source note 2 asks for it. 1,000 questions of right=0.5, each
fold held out once; a tenth of the others decides when to stop (exact match; so many rounds of 10
steps without a rise), never the fold that is held out.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch

from .. import tokenizer
from ..files import data_path
from ..gazette import Gazette
from ..heads import SpanExtractor, read_spans
from ..masks import Mask, bidirectional, causal
from ..metrics import exact_match, token_f1
from ..model import GPT, GPTConfig
from ..objectives import Answering, Asking
from ..patience import fit_patiently
from ..tasks import asking
from ..train import fit
from .results import Table, origin

DIAL = (0.0, 0.25, 0.5, 0.75, 1.0)
LONGEST = 3  # tokens of an answer
NONE = 0.2


class Reader(NamedTuple):
    """Who may look at whom, and whether the text is read a second time."""

    mask: Mask
    twice: bool


READERS = {
    "causal": Reader(causal, False),
    "open": Reader(bidirectional, False),
    "twice": Reader(causal, True),
}


def new_model(config: GPTConfig, seed: int) -> SpanExtractor:
    chance = torch.Generator().manual_seed(seed)
    return SpanExtractor(GPT.init(config, chance), chance)


def said(
    model: SpanExtractor, mask: Mask, askings: Sequence[Asking], threshold: float = 0.0
) -> list[str]:
    """The answer to each question as text; "" where none is likelier by more than ``threshold``."""
    spans = read_spans(model, Answering(mask), askings, LONGEST)
    return [
        tokenizer.decode(asked.ids[span.first : span.last + 1].tolist())
        if span.margin > threshold
        else ""
        for asked, span in zip(askings, spans, strict=True)
    ]


def wanted(askings: Sequence[Asking]) -> list[list[str]]:
    """The accepted answers of each question, none where it has none."""
    found = []
    for asked in askings:
        first, last = asked.answer or (0, -1)
        found.append([tokenizer.decode(asked.ids[first : last + 1].tolist())][: last >= first])
    return found


def scores(answers: Sequence[str], gold: Sequence[Sequence[str]]) -> tuple[list[int], float]:
    """Exact match of each question (1 or 0), and the mean F1 of their words."""
    pairs = list(zip(answers, gold, strict=True))
    matches = [int(exact_match(*pair)) for pair in pairs]
    return matches, sum(token_f1(*pair) for pair in pairs) / len(pairs)


def judged(model: SpanExtractor, mask: Mask, askings: Sequence[Asking]) -> dict:
    """Exact match and F1 of all questions, and the match of each."""
    matches, f1 = scores(said(model, mask, askings), wanted(askings))
    em = round(sum(matches) / len(matches), 4)
    return dict(em=em, f1=round(f1, 4), bits="".join(map(str, matches)))


def dial(table: Table, config: GPTConfig, seeds: Sequence[int], sizes: dict) -> None:
    gazette = Gazette.load()
    for seed in seeds:
        for right in DIAL:
            chance = torch.Generator().manual_seed(2**31 + round(100 * right))
            fresh = [asking(a) for a in gazette.questions(sizes["judged"], chance, right, NONE)]
            chance = torch.Generator().manual_seed(1000 * seed + round(100 * right))
            known = [asking(a) for a in gazette.questions(sizes["trained"], chance, right, NONE)]
            for name, (mask, twice) in READERS.items():
                if table.has(right=right, reader=name, seed=seed):
                    continue
                model = new_model(config, seed)
                texts, held = (
                    [each.twice() for each in some] if twice else some for some in (known, fresh)
                )
                how = dict(batch=32, seed=seed, progress=False)
                fit(model, Answering(mask), texts, sizes["steps"], **how)
                table.add(right=right, reader=name, seed=seed, **judged(model, mask, held))


def folds(table: Table, config: GPTConfig, count: int, patience: int, sizes: dict) -> None:
    gazette = Gazette.load()
    chance = torch.Generator().manual_seed(2**30)
    drawn = [asking(a) for a in gazette.questions(sizes["questions"], chance, 0.5, NONE)]
    for fold in range(count):
        held = drawn[fold::count]
        others = [each for n, each in enumerate(drawn) if n % count != fold]
        dev, known = others[::10], [each for n, each in enumerate(others) if n % 10]
        for name in ("causal", "open"):
            if table.has(fold=fold, reader=name):
                continue
            mask = READERS[name].mask
            model = new_model(config, fold)

            def score(model: SpanExtractor, mask: Mask = mask, dev: list = dev) -> float:
                return sum(scores(said(model, mask, dev), wanted(dev))[0]) / len(dev)

            how = dict(patience=patience, rounds=sizes["rounds"], steps=10)
            done = fit_patiently(
                *(model, Answering(mask), known, score), **how, batch=32, seed=fold, progress=False
            )
            table.add(
                fold=fold,
                reader=name,
                dev=round(max(done.scores), 4),
                best=done.best,
                rounds=len(done.scores),
                **judged(model, mask, held),
            )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    results = data_path("gazette.toml").parent / "results"
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folds", type=int, default=0, help="cross-validation instead of the dial")
    parser.add_argument("--patience", type=int, default=20)
    parser.add_argument("--smoke", action="store_true", help="one tiny model, two steps")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    gazette = Gazette.load()
    width = dict(n_embd=64, n_layer=2, n_head=4)
    sizes = dict(trained=5120, judged=500, steps=160)
    if options.folds:
        sizes = dict(questions=1000, rounds=60)
    if options.smoke:
        width, options.seeds = dict(n_embd=8, n_layer=1, n_head=1), [0]
        sizes = dict(trained=20, judged=20, steps=2, questions=40, rounds=2)
    config = GPTConfig(gazette.vocab_size, n_positions=100, **width)
    settings = dict(**sizes, none=NONE, longest=LONGEST, batch=32, config=asdict(config))
    about = " ".join(" ".join(__doc__.split("\n\n")[2:]).split())
    facts = {**origin("questions", argv), "about": about}
    if options.folds:
        settings |= dict(right=0.5, folds=options.folds, patience=options.patience)
        values = ("em", "f1", "dev", "best", "rounds", "bits")
        out = options.out or results / "questions_folds.csv"
        table = Table(out, ("fold", "reader"), values, settings, facts)
        return folds(table, config, options.folds, options.patience, sizes)
    out = options.out or results / "questions.csv"
    table = Table(out, ("right", "reader", "seed"), ("em", "f1", "bits"), settings, facts)
    dial(table, config, options.seeds, sizes)


if __name__ == "__main__":
    main()
