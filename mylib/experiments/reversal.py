"""Facts seen in one order and asked in the other.

    python -m mylib.experiments.reversal          (about ten minutes on one core)

100 invented finds: a person of two names, a thing of two words, each in one find alone. Half of
them are printed both ways ("Ada Moss found the red bell." and "The red bell was found by Ada
Moss."), a quarter with the name first only, a quarter with the thing first only. A small GPT
(2 layers, width 64) learns them by heart: left to right ("causal", and "causal, twice" for twice as
many steps), in both directions ("dual": as many tokens as "causal, twice"), or from holes
("masked", half of the words hidden; "diffusion", at every rate, on a canvas of 16 tokens).

Asked of each fact, always greedily, all words of the answer right or wrong: ``known``: the rest,
given the beginning of a sentence that was printed. ``turned``: the same of the sentence that was
not printed. ``backward``: the beginning of the printed sentence, given its end (the model writes to
the left). ``filled``: the same by filling holes. ``ranked``: the printed sentence with each of the
100 possible beginnings is scored; is the right one likeliest? ``order``: what the printed sentence
begins with. "both": the facts that were printed both ways, in each.

Source: Berglund et al., "The Reversal Curse: LLMs trained on 'A is B' fail to learn 'B is A'"
(2023); source note 4, whose second direction is tried here as the cure.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from .. import tokenizer
from ..evaluation import evaluate
from ..files import data_path
from ..model import GPT, GPTConfig
from ..objectives import AbsorbingDiffusion, ForwardBackward, MaskedLM, NextToken, Objective
from ..sampling import generate, generate_backward, write
from ..tokenizer import BOS, BW, EOS, MASK, PAD
from ..train import fit
from .results import Table, origin

FIRST = ["Ada", "Ashby", "Hugo", "Ivor", "Lincoln", "Marlow", "Maud", "Nell", "Otto", "Ruth"]
LAST = ["Bank", "Bay", "Finch", "Grubb", "Moss", "Pearl", "Pike", "Reed", "Rock", "Teal"]
HUES = ["black", "blue", "brown", "green", "grey", "pink", "purple", "red", "white", "yellow"]
THINGS = ["bell", "boat", "clock", "fiddle", "kettle", "ladder", "lamp", "parrot", "spoon", "trunk"]


class Learner(NamedTuple):
    """``times``: as many steps as "causal"; ``row``: tokens of a packed row, or of the canvas."""

    objective: Objective
    times: int
    row: int = 48


LEARNERS = {
    "causal": Learner(NextToken(), 1),
    "causal, twice": Learner(NextToken(), 2),
    "dual": Learner(ForwardBackward(p_bw=1.0, direction_tokens=False), 1),
    "masked": Learner(MaskedLM(rate=0.5, split=(1, 0, 0)), 2),
    "diffusion": Learner(AbsorbingDiffusion(), 2, row=16),
}
# Those that fill holes, and how far a page is padded for them.
CANVAS = {"masked": 0, "diffusion": LEARNERS["diffusion"].row}
ORDERS = ("name", "thing")


class Fact(NamedTuple):
    """A find; ``printed``: the orders in which it is learned."""

    who: tuple[str, str]
    what: tuple[str, str]
    printed: tuple[str, ...]

    def sentence(self, order: str) -> tuple[Tensor, int, int]:
        """Its tokens, how many of them its beginning has, and where the rest's answer stands.

        The beginning is <bos> and two words (with "The" in front of a thing); the answer of the
        rest is its last two words before the full stop.
        """
        who, what = " ".join(self.who), " ".join(self.what)
        if order == "name":
            text, begun = f"{who} found the {what}.", 3
        else:
            text, begun = f"The {what} was found by {who}.", 4
        ids = tokenizer.load_tokenizer().encode_ordinary(" " + text)
        return torch.tensor([BOS, *ids, EOS]), begun, len(ids) - 2


def facts(generator: torch.Generator) -> list[Fact]:
    """100 finds, the names paired with the things at random."""
    names = [(first, last) for first in FIRST for last in LAST]
    things = [(hue, thing) for hue in HUES for thing in THINGS]
    mixed = torch.randperm(100, generator=generator).tolist()
    order = torch.randperm(100, generator=generator).tolist()
    printed = [ORDERS] * 50 + [ORDERS[:1]] * 25 + [ORDERS[1:]] * 25
    return [Fact(names[n], things[mixed[n]], printed[order[n]]) for n in range(100)]


def learned(finds: Sequence[Fact]) -> list[Tensor]:
    """All sentences that are printed."""
    return [fact.sentence(order)[0] for fact in finds for order in fact.printed]


def completed(model: GPT, finds: Sequence[Fact], order: str) -> int:
    """How many of the facts' sentences are continued rightly, given all but their last answer."""
    right = 0
    for fact in finds:
        ids, _, answer = fact.sentence(order)
        found = generate(model, [ids[:answer]], 2, temperature=0, stop=None).ids[0]
        right += torch.equal(found, ids[: answer + 2])
    return right


def begun_backward(model: GPT, finds: Sequence[Fact], order: str, told: bool = False) -> int:
    """How many sentences get their beginning, written to the left from their end."""
    right = 0
    for fact in finds:
        ids, begun, _ = fact.sentence(order)
        end = ids[begun:].clone()
        if told:
            end[-1] = BW
        found = generate_backward(model, [end], begun - 1, temperature=0, stop=None).ids[0]
        right += torch.equal(found[: begun - 1], ids[1:begun])
    return right


def begun_in_holes(model: GPT, finds: Sequence[Fact], order: str, canvas: int) -> int:
    """How many sentences get their beginning when it is hidden and the rest is shown.

    ``canvas``: tokens of the page, <pad> after the sentence; 0 for no padding.
    """
    right = 0
    for fact in finds:
        ids, begun, _ = fact.sentence(order)
        ids = pad(ids, (0, max(canvas - len(ids), 0)), value=PAD)
        torn = ids.clone()
        torn[1:begun] = MASK
        right += torch.equal(write(model, torn[None], "left", temperature=0).ids[0], ids)
    return right


def ranked_first(model: GPT, finds: Sequence[Fact], every: Sequence[Fact], order: str) -> int:
    """How many sentences are likelier, read left to right, than with any other beginning."""
    starts = [each.sentence(order) for each in every]
    right = 0
    for fact in finds:
        ids, begun, _ = fact.sentence(order)
        rivals = [torch.cat([each[:begun], ids[begun:]]) for each, _, _ in starts]
        nll = evaluate(model, NextToken(), rivals, batch=len(rivals))
        right += torch.equal(rivals[int(nll.argmin())], ids)
    return right


def questions(name: str, model: GPT, finds: Sequence[Fact]) -> list[dict]:
    """Everything this learner is asked: rows of the table."""
    rows = []
    for printed in ("name", "thing", "both"):
        some = [f for f in finds if f.printed == (ORDERS if printed == "both" else (printed,))]
        for order in ORDERS if printed == "both" else (printed,):
            other = ORDERS[1 - ORDERS.index(order)]
            found: dict[str, int] = {}
            if name in CANVAS:
                found["filled"] = begun_in_holes(model, some, order, CANVAS[name])
                if printed != "both":
                    found["turned"] = begun_in_holes(model, some, other, CANVAS[name])
            else:
                found["known"] = completed(model, some, order)
                found["ranked"] = ranked_first(model, some, finds, order)
                if printed != "both":
                    found["turned"] = completed(model, some, other)
            if name == "dual":
                found["backward"] = begun_backward(model, some, order)
            for question, right in found.items():
                rows.append(
                    dict(printed=printed, order=order, question=question, right=right, of=len(some))
                )
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    results = data_path("gazette.toml").parent / "results"
    parser.add_argument("--out", type=Path, default=results / "reversal.csv")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--smoke", action="store_true", help="a tiny model, two steps")
    options = parser.parse_args(argv)
    from tqdm import tqdm

    torch.set_num_threads(1)
    sizes = dict(steps=1000, batch=75, layers=2, width=64)
    if options.smoke:
        sizes, options.seeds = dict(steps=2, batch=4, layers=1, width=8), [0]
    config = GPTConfig(
        tokenizer.load_tokenizer().n_vocab,
        n_positions=16,
        n_embd=sizes["width"],
        n_layer=sizes["layers"],
        n_head=max(1, sizes["width"] // 16),
    )
    about = " ".join(" ".join(__doc__.split("\n\n")[2:4]).split())
    key, values = ("learner", "seed", "printed", "order", "question"), ("right", "of")
    table = Table(options.out, key, values, sizes, {**origin("reversal", argv), "about": about})
    for seed in options.seeds:
        finds = facts(torch.Generator().manual_seed(seed))
        for name, (objective, times, row) in tqdm(LEARNERS.items(), disable=None):
            if table.has(learner=name, seed=seed):
                continue
            model = GPT.init(config, torch.Generator().manual_seed(seed))
            how = dict(batch=sizes["batch"], row=row, seed=seed, progress=False)
            fit(model, objective, learned(finds), times * sizes["steps"], **how)
            for row in questions(name, model, finds):
                table.add(learner=name, seed=seed, **row)


if __name__ == "__main__":
    main()
