"""What the shipped models can do, measured on fresh documents when `pretrain` has made them."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import tokenizer
from ..evaluation import evaluate, evaluate_passes
from ..floors import answer_counts, bound_gap, excess_per_answer, left_floor
from ..gazette import Gazette
from ..masks import bidirectional
from ..metrics import Interval, bootstrap, bootstrap_over, paired_excess
from ..model import GPT
from ..objectives import (
    AbsorbingDiffusion,
    Denoising,
    ForwardBackward,
    MaskedLM,
    NextToken,
    PrefixLM,
)
from ..sampling import Flagged, Passes, aligned, generate, generate_backward, write
from ..sampling.budgets import Budget
from ..tasks import headline_prompts
from ..tokenizer import BOS, BW, EOS, FW, MASK

HELD_OUT = 2**31  # the seed of the documents that models are judged on


def measure_causal(model: GPT, gazette: Gazette, n: int = 4000) -> dict:
    """Excess over the floor on ``n`` fresh documents, paired, and the valid share of samples."""
    fresh = gazette.sample(n, torch.Generator().manual_seed(HELD_OUT))
    excess = paired_excess(evaluate(model, NextToken(), fresh), floor(gazette, fresh))
    prompts = torch.full((1000, 1), BOS)
    chance = torch.Generator().manual_seed(HELD_OUT)
    written = generate(model, prompts, gazette.length, generator=chance).ids
    valid = gazette.is_valid(written)
    return {
        "floor": round(gazette.entropy, 4),
        **named("excess", excess),
        "valid": round(float(valid.double().mean()), 4),
        "documents": n,
        "samples": len(prompts),
    }


def measure_mixed(model: GPT, gazette: Gazette, n: int = 2000, samples: int = 500) -> dict:
    """Each thing this model does, on ``n`` fresh documents.

    ``forward``, ``backward``: paired excess, nats per document. ``fill_in``: nats per hidden word
    beyond the oracle's, three words of a document hidden. ``spoiled_found``: one word replaced at
    random, share of documents in which it is the word that is flagged most. ``false_flags``: share
    of right words flagged with more than 1/2. ``valid``: of pages written word by word.
    """
    fresh = gazette.sample(n, torch.Generator().manual_seed(HELD_OUT))
    chance = torch.Generator().manual_seed(HELD_OUT)
    units = "nats per document; fill_in: per hidden word; spoiled_found, false_flags, valid: shares"
    found: dict = {"units": units, "floor": round(gazette.entropy, 4)}
    for name, nats in zip(("forward", "backward"), both_ways(model, fresh), strict=True):
        found |= named(f"{name}_excess", paired_excess(nats, floor(gazette, fresh)))
    canvas = gazette.canvas(fresh)
    words = torch.tensor([len(text) - 2 for text in fresh])
    rows = torch.arange(n)
    holes = (
        1
        + (torch.rand(n, gazette.length, generator=chance))
        .masked_fill(torch.arange(gazette.length) >= words[:, None], -1.0)
        .topk(3)
        .indices
    )
    torn = canvas.scatter(1, holes, MASK)
    with torch.no_grad():
        guess = model(torn, bidirectional).log_softmax(-1)
    true = gazette.denoiser(torn)
    place = (rows[:, None], holes, canvas.gather(1, holes))
    found |= named("fill_in_excess", paired_excess(-guess[place].mean(1), -true[place].mean(1)))
    lexicon = tokenizer.lexicon()
    spot = 1 + (torch.rand(n, generator=chance) * words).long()
    other = torch.randint(lexicon.start, lexicon.stop, (n,), generator=chance)
    spoiled = canvas.clone()
    spoiled[rows, spot] = other
    with torch.no_grad():
        flags, quiet = (
            model(ids, bidirectional).softmax(-1)[..., MASK] for ids in (spoiled, canvas)
        )
    changed = other != canvas[rows, spot]
    right = (flags.argmax(1) == spot)[changed]
    found["spoiled_found"] = round(float(right.double().mean()), 4)
    real = torch.arange(gazette.length) < words[:, None] + 2
    found["false_flags"] = round(float((quiet > 0.5)[real].double().mean()), 6)
    for order in ("confidence", "random"):
        valid = written_valid(model, gazette, samples, order)
        found[f"valid_{order}"] = round(float(valid.double().mean()), 4)
    return found | {"documents": n, "samples": samples}


def measure_dual(model: GPT, gazette: Gazette, n: int = 4000, samples: int = 1000) -> dict:
    """Excess of both readings over the floor, paired, and the valid share of what each writes."""
    fresh = gazette.sample(n, torch.Generator().manual_seed(HELD_OUT))
    found: dict = {"units": "nats per document; valid: shares", "floor": round(gazette.entropy, 4)}
    for name, nats in zip(("forward", "backward"), both_ways(model, fresh), strict=True):
        found |= named(f"{name}_excess", paired_excess(nats, floor(gazette, fresh)))
    for way, wanted in (("forward", generate), ("backward", generate_backward)):
        chance = torch.Generator().manual_seed(HELD_OUT)
        start = torch.full((samples, 1), FW if way == "forward" else BW)
        written = aligned(wanted(model, start, gazette.length, generator=chance).ids)
        written[written == FW], written[written == BW] = BOS, EOS
        found |= named_share(f"valid_{way}", gazette.is_valid(written))
    return found | {"documents": n, "samples": samples}


def measure_prefix(model: GPT, gazette: Gazette, n: int = 4000, samples: int = 1000) -> dict:
    """Excess over the floor, given a random part, paired; and what it writes, given a headline.

    ``valid_story``: shares of valid documents, the first sentence a headline and given;
    ``valid_headline``: the first sentence a story. One fresh document each.
    """
    fresh = gazette.sample(n, torch.Generator().manual_seed(HELD_OUT))
    chance = torch.Generator().manual_seed(HELD_OUT)
    counts = answer_counts(model, PrefixLM(), fresh, chance, gazette, left_floor)
    found: dict = {"units": "nats per asked word; valid: shares"}
    found |= named("excess", excess_per_answer(counts))
    chance = torch.Generator().manual_seed(HELD_OUT)
    prompts = headline_prompts(gazette, samples, chance)
    for name, given in zip(("story", "headline"), prompts, strict=True):
        chance = torch.Generator().manual_seed(HELD_OUT)
        written = generate(model, given, gazette.length, open_prompt=True, generator=chance).ids
        found |= named_share(f"valid_{name}", gazette.is_valid(aligned(written)))
    return found | {"documents": n, "samples": samples}


def measure_masked(model: GPT, gazette: Gazette, n: int = 4000) -> dict:
    """Excess over the oracle on ``n`` fresh documents, paired: nats per hidden word.

    15 % of the words are hidden, all of them as [MASK].
    """
    fresh = gazette.sample(n, torch.Generator().manual_seed(HELD_OUT))
    objective = MaskedLM(rate=0.15, split=(1, 0, 0))
    chance = torch.Generator().manual_seed(HELD_OUT)
    counts = answer_counts(model, objective, fresh, chance, gazette)
    words, _, floor = counts.sum(0).tolist()
    return {
        "units": "nats per hidden word",
        "floor": round(floor / words, 4),
        **named("excess", excess_per_answer(counts)),
        "documents": n,
        "hidden_words": int(words),
    }


def measure_denoiser(model: GPT, gazette: Gazette, n: int = 4000, samples: int = 500) -> dict:
    """How the proofreader judges ``n`` documents, spoiled as in training, and what is written.

    Of all shown words, p([MASK]) > 1/2 is a flag: ``precision`` is the share of flags at wrong
    words, ``recall`` the share of wrong words that are flagged, by document resampled.
    ``mask_at_mask``: mean p([MASK]) at hidden words. ``valid_...``: of pages in 17 passes.
    """
    fresh = gazette.sample(n, torch.Generator().manual_seed(HELD_OUT))
    counts = flag_counts(model, gazette, fresh)
    found: dict = {"units": "shares"}
    for name, interval in zip(("precision", "recall"), precision_recall(counts), strict=True):
        found |= named(name, interval)
    found["mask_at_mask"] = round(float(counts[:, 3].sum() / counts[:, 4].sum()), 6)
    for name, revise in (("plain", None), ("revised", Flagged())):
        valid = written_valid(model, gazette, samples, "random", Passes(17), revise)
        found |= named_share(f"valid_{name}", valid)
    return found | {"documents": n, "samples": samples}


def flag_counts(model: GPT, gazette: Gazette, documents: list[Tensor]) -> Tensor:
    """What the proofreader does to documents that are spoiled as in its training.

    For each document: wrong words flagged, p([MASK]) > 1/2; words flagged; wrong words; the sum of
    p([MASK]) at hidden words; hidden words. float64 (documents, 5).
    """
    objective, chance, found = Denoising(), torch.Generator().manual_seed(HELD_OUT), []
    for start in range(0, len(documents), 64):
        rows = objective.alone(documents[start : start + 64], gazette.length)
        (batch,) = objective.passes(rows, chance)
        with torch.no_grad():
            says = model(batch.inputs, batch.mask, batch.positions).softmax(-1)[..., MASK]
        hidden = batch.inputs == MASK
        wrong, flag = (batch.inputs != rows.tokens) & ~hidden, (says > 0.5) & ~hidden
        columns = (wrong & flag, flag, wrong, says * hidden, hidden)
        found.append(torch.stack([column.double().sum(1) for column in columns], 1))
    return torch.cat(found)


def precision_recall(counts: Tensor) -> tuple[Interval, Interval]:
    """Share of the flags that stand at wrong words, and of the wrong words that are flagged.

    Both are 0 where nothing is flagged.
    """
    return (
        bootstrap_over(counts, lambda sums: sums[:, 0] / sums[:, 1].clamp(min=1)),
        bootstrap_over(counts, lambda sums: sums[:, 0] / sums[:, 2].clamp(min=1)),
    )


def measure_diffusion(model: GPT, gazette: Gazette, n: int = 4000, samples: int = 500) -> dict:
    """The bound on ``n`` fresh documents against the entropy, paired, and what is written.

    ``gap``: nats per document of the bound above the entropy; ``gap_share``: of the entropy.
    ``valid_...``: shares of valid pages, one word a pass.
    """
    fresh = gazette.sample(n, torch.Generator().manual_seed(HELD_OUT))
    chance = torch.Generator().manual_seed(HELD_OUT)
    counts = answer_counts(model, AbsorbingDiffusion(), fresh, chance, gazette, row=gazette.length)
    gap = bound_gap(counts)
    found: dict = {
        "units": "nats per document; gap_share, valid: shares",
        "floor": round(gazette.entropy, 4),
        **named("gap", gap),
        "gap_share": round(gap.mean / gazette.entropy, 4),
    }
    for order in ("random", "confidence"):
        found |= named_share(f"valid_{order}", written_valid(model, gazette, samples, order))
    return found | {"documents": n, "samples": samples}


def written_valid(
    model: GPT,
    gazette: Gazette,
    samples: int,
    order: str,
    budget: Budget = 1,
    revise: Flagged | None = None,
) -> Tensor:
    """Which of so many pages, written from a blank canvas, are valid: bool (samples,)."""
    blank = torch.full((samples, gazette.length), MASK)
    chance = torch.Generator().manual_seed(HELD_OUT)
    return gazette.is_valid(write(model, blank, order, budget, revise=revise, generator=chance).ids)


def both_ways(model: GPT, documents: list[Tensor]) -> tuple[Tensor, Tensor]:
    """-log p of each document read forward and backward, nats (N,) each."""
    forward, backward = evaluate_passes(model, ForwardBackward(), documents)
    return forward, backward


def floor(gazette: Gazette, documents: list[Tensor]) -> Tensor:
    return -gazette.log_prob(gazette.canvas(documents))


def named_share(name: str, right: Tensor) -> dict:
    return named(name, bootstrap(right.double()))


def named(name: str, interval: Interval) -> dict:
    return {
        name: round(interval.mean, 4),
        f"{name}_interval": [round(interval.low, 4), round(interval.high, 4)],
    }
