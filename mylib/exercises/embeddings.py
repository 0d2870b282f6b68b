"""Side road A4: a mean without pads, late interaction, and a loss that punishes no right answer."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..embeddings import late_interaction
from ..heads import pooled
from . import check, expect

__all__ = ["check_fair_loss", "check_late", "check_mean_of_words"]

OWN = "the right story was left out, too: `same` is True on its diagonal. Leave out the others"
VALID = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]]).bool()


def _near(found: Tensor, wanted: Tensor) -> bool:
    return found.shape == wanted.shape and torch.allclose(
        found.double(), wanted.double(), atol=1e-5
    )


def _is_tensor(found: object, shape: tuple[int, ...], what: str) -> None:
    got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
    expect(isinstance(found, Tensor) and found.shape == shape, f"{what} {shape}, got {got}")


@check("A4.3")
def check_mean_of_words(mean_of_words: Callable) -> None:
    """``mean_of_words(hidden (B, T, C), valid bool (B, T))`` -> (B, C)."""
    chance = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 5, 4, generator=chance)
    found = mean_of_words(hidden.clone(), VALID)
    expect(found is not None, "your function returns None; return the vectors")
    _is_tensor(found, (3, 4), "one vector a row is")
    wanted = pooled(hidden, VALID, "mean")
    expect(
        not _near(found, hidden.mean(1)),
        "the pads are in the mean: the vector of a text changes with the longest text beside it",
    )
    expect(
        not _near(found, wanted * VALID.sum(1, keepdim=True) / 5),
        "the sum leaves the pads out, but you divide by T: a short text gets a short vector. "
        "Divide by the number of its own words",
    )
    expect(
        not _near(found, wanted * VALID.sum(1, keepdim=True)),
        "that is the sum of the words: divide by how many they are",
    )
    pads = hidden[0, 3:].sum(0)
    expect(
        not any(_near(found[0], pads / n) for n in (2, 3)),
        "row 0 has the pads' states and not the words': valid is True where a word stands",
    )
    expect(_near(found, wanted), "row 0 is not the mean of its three words")
    wild = hidden.masked_fill(~VALID[..., None], math.nan)
    expect(
        bool(mean_of_words(wild.clone(), VALID).isfinite().all()),
        "a pad's state may be anything, also NaN, and NaN times 0 is NaN: replace the states of "
        "pads (masked_fill, where), do not multiply them",
    )
    none = mean_of_words(hidden.clone(), torch.zeros_like(VALID))
    expect(
        bool(none.isfinite().all()) and float(none.abs().max()) == 0,
        "a row without words is divided by 0: it must give zeros, not NaN",
    )


@check("A4.2")
def check_late(late: Callable) -> None:
    """``late(query (T, C), query_valid, story (U, C), story_valid)`` -> one number."""
    chance = torch.Generator().manual_seed(1)
    query, story = (torch.randn(n, 4, generator=chance) for n in (3, 6))
    all_q, all_s = torch.ones(3, dtype=torch.bool), torch.ones(6, dtype=torch.bool)
    found = late(query.clone(), all_q, story.clone(), all_s)
    expect(found is not None, "your function returns None; return the score")
    expect(torch.as_tensor(found).numel() == 1, "a query and a story have one score: one number")
    unit_q, unit_s = F.normalize(query, dim=-1), F.normalize(story, dim=-1)
    near = unit_q @ unit_s.T
    lines = {
        float(near.amax(0).sum()): "that is the wrong axis: each word of the *story* looks for its "
        "best word of the query, and a long story wins by its length",
        **{
            float((one @ other.T).amax(1).sum()): "the vectors are not of length 1: a word with a "
            "long vector matches everything. Normalise both sides"
            for one, other in ((query, story), (unit_q, story), (query, unit_s))
        },
        float(near.amax(1).mean()): "add up the best matches; you average them",
        float(near.sum()): "all pairs are added up: that compares two sums of vectors. Each word "
        "of the query counts its best match alone",
        float(near.max()): "that is the best single pair; each word of the query has a say",
    }
    for value, line in lines.items():
        expect(not math.isclose(float(found), value, abs_tol=1e-5), line)
    wanted = float(near.amax(1).sum())
    expect(
        math.isclose(float(found), wanted, abs_tol=1e-5), f"{float(found):.4f}, not {wanted:.4f}"
    )
    # The story points away from the query everywhere; its pads are zeros.
    padded = torch.cat([-query.mean(0)[None], torch.zeros(2, 4)])
    shown = torch.tensor([True, False, False])
    expect(
        math.isclose(
            float(late(query.clone(), all_q, padded, shown)),
            float(_one(query, all_q, padded, shown)),
            abs_tol=1e-5,
        ),
        "a pad of the story is matched: its similarity of 0 is better than a negative one. Give "
        "pads minus infinity before the max",
    )
    some = torch.tensor([True, True, False])
    expect(
        math.isclose(
            float(late(query.clone(), some, story.clone(), all_s)),
            float(_one(query, some, story, all_s)),
            abs_tol=1e-5,
        ),
        "a pad of the query has a say: leave its best match out of the sum",
    )


def _one(query: Tensor, query_valid: Tensor, story: Tensor, story_valid: Tensor) -> Tensor:
    unit = (F.normalize(each, dim=-1)[None] for each in (query, story))
    query, story = unit
    return late_interaction(query, query_valid[None], story, story_valid[None])[0, 0]


@check("A4.1")
def check_fair_loss(fair_loss: Callable) -> None:
    """``fair_loss(cosines (N, N), same bool (N, N), temperature)`` -> mean nats."""
    chance = torch.Generator().manual_seed(2)
    cosines = torch.rand(5, 5, generator=chance) * 2 - 1
    alone = torch.eye(5, dtype=torch.bool)
    same = alone.clone()
    same[1, 3] = same[3, 1] = True
    for each in (0.5, 0.1):
        found = fair_loss(cosines.clone(), alone, each)
        expect(found is not None, "your function returns None; return the loss")
        _is_tensor(torch.as_tensor(found), (), "the loss is one number, a tensor of shape")
        expect(math.isfinite(found), OWN)
        lines = {
            _fair(cosines, alone, 1.0): "the temperature is not used: divide the cosines by it",
            _fair(cosines, alone, each) / math.log(2): "these are bits: nats use the natural log",
            (_fair(cosines, alone, each) + _fair(cosines.T, alone, each)) / 2: "that is the mean "
            "of two losses; here only the sentence is asked which story is its own",
            _fair(cosines, alone, 1 / each): "you multiply by the temperature. A low temperature "
            "makes differences greater: divide",
            _fair(cosines.T, alone, each): "the softmax runs over the sentences: each sentence is "
            "asked which story is its own, so it runs over the stories of its row",
            5 * _fair(cosines, alone, each): "that is the sum over the sentences: take the mean",
            -_fair(cosines, alone, each): "the sign: the loss is minus log p",
        }
        for value, line in lines.items():
            expect(not math.isclose(float(found), value, abs_tol=1e-5), line)
        wanted = _fair(cosines, alone, each)
        expect(
            math.isclose(float(found), wanted, abs_tol=1e-4),
            f"{float(found):.4f}, not {wanted:.4f}",
        )
    for each in (0.5, 0.1):
        _check_twins(float(fair_loss(cosines.clone(), same, each)), cosines, same, each)


def _check_twins(found: float, cosines: Tensor, same: Tensor, temperature: float) -> None:
    """The loss where two stories have the same words."""
    alone = torch.eye(len(same), dtype=torch.bool)

    def filled(score: float) -> float:
        logits = cosines.masked_fill(same & ~alone, score) / temperature
        return float(logits.log_softmax(1).diagonal().neg().mean())

    expect(math.isfinite(found), OWN)
    if math.isclose(found, _fair(cosines, same, temperature), abs_tol=1e-5):
        return  # at a low temperature a poor candidate can hardly be told from none
    still = "is still a candidate: minus infinity leaves it out"
    unmasked = _fair(cosines, alone, temperature)
    lines = {
        unmasked: "stories 1 and 3 have the same words, and each still counts as a wrong answer "
        "for the other's sentence: a false negative. Leave it out",
        filled(0): f"a score of 0, with weight e⁰, {still}",
        filled(-1): f"a cosine of -1 {still}",
    }
    right = "with two stories of the same words the loss is that of the candidates that are left"
    expect(False, next((line for v, line in lines.items() if math.isclose(found, v)), right))


def _fair(cosines: Tensor, same: Tensor, temperature: float) -> float:
    others = same & ~torch.eye(len(same), dtype=torch.bool)
    logits = (cosines / temperature).masked_fill(others, -torch.inf)
    return float(-logits.log_softmax(1).diagonal().mean())
