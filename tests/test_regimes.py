"""Short trainings against exact floors: who sees whom, and who knows the length.

The chapters show these at leisure; here they guard the objectives.
"""

import pytest
import torch

from mylib.gazette import Gazette
from mylib.leaks import certificate
from mylib.masks import bidirectional
from mylib.metrics import paired_excess
from mylib.model import GPT, GPTConfig
from mylib.objectives import NextToken, PreviousToken, Rows
from mylib.train import evaluate, fit


@pytest.fixture(scope="module")
def gazette():
    return Gazette.load()


def trained(gazette, objective, steps):
    """Excess over the free and over the given floor, after a short training."""
    config = GPTConfig(gazette.vocab_size, n_positions=64, n_embd=96, n_layer=2, n_head=4)
    model = GPT.init(config, torch.Generator().manual_seed(0))
    fit(model, objective, gazette, steps, learning_rate=1.5e-2, progress=False)
    fresh = gazette.sample(1000, torch.Generator().manual_seed(123))
    mine, free = evaluate(model, objective, fresh), -gazette.log_prob(gazette.canvas(fresh))
    words = torch.tensor([len(document) - 2 for document in fresh])
    given = free + gazette.length_probs[words].log()  # -log p(text | its length)
    return paired_excess(mine, free), paired_excess(mine, given)


def clean(gazette, objective):
    rows = Rows.padded(gazette.sample(8, torch.Generator().manual_seed(1)))
    return certificate(objective, rows, layers=2).sound


def test_backward_with_positions_from_the_end_stays_above_the_floor(gazette):
    objective = PreviousToken("end")
    free, _ = trained(gazette, objective, 120)
    assert clean(gazette, objective) and objective.length == "free"
    assert free.low > 0 and free.mean < 0.1 * gazette.entropy


def test_backward_with_positions_from_the_start_falls_to_the_floor_of_a_given_length(gazette):
    objective = PreviousToken("start")
    free, given = trained(gazette, objective, 120)
    assert clean(gazette, objective) and objective.length == "given"
    assert free.high < 0, "it knows the length, so it must pass the floor of those who do not"
    assert given.low > 0 and given.mean < 0.1 * gazette.entropy


def test_without_a_mask_the_loss_falls_through_every_floor(gazette):
    objective = NextToken(bidirectional)
    free, given = trained(gazette, objective, 60)
    assert not clean(gazette, objective)
    assert free.high < 0 and given.high < 0
