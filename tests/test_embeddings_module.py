"""Torn pages, their exact oracle, and the objective that asks which story is mine."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from tiny import gpt

from mylib.embeddings import (
    Embedder,
    Matching,
    Torn,
    TornOracle,
    TornPages,
    found,
    late_interaction,
    surprise,
)
from mylib.gazette import Gazette
from mylib.masks import bidirectional, causal
from mylib.model import GPT, GPTConfig
from mylib.train import fit


@pytest.fixture(scope="module")
def evening():
    return Gazette.load()


@pytest.fixture(scope="module")
def pile(evening):
    return TornPages(evening).sample(24, torch.Generator().manual_seed(0))


def sides(pile):
    return [page.sentence for page in pile], [page.story for page in pile]


def small(pool="mean", second=False, **sizes):
    config = GPTConfig(830, n_positions=64, n_embd=16, n_layer=2, n_head=2, **sizes)
    return Embedder(GPT.init(config, torch.Generator().manual_seed(0)), pool, second)


def test_the_two_parts_are_the_page(evening):
    whole, place = (TornPages(evening, leak) for leak in ("sentence", "position"))
    torn = TornPages(evening)
    for page in evening.sample(40, torch.Generator().manual_seed(1)):
        if len(torn.places(page)) < 2:
            with pytest.raises(ValueError, match="a page of 1 sentences"):
                torn.tear(page)
            continue
        parts = torn.tear(page)
        assert torch.equal(torch.cat([parts.story[:-1], parts.sentence[1:]]), page)
        assert parts.start == 0 and len(torn.places(parts.sentence)) == 1
        assert torch.equal(whole.tear(page).story, page)
        start = place.tear(page).start  # each word where it stood on the page
        assert torch.equal(page[start + 1 :], parts.sentence[1:])
    with pytest.raises(ValueError, match="leak is"):
        TornPages(evening, "length")


def test_the_oracle_is_the_grammar(evening, pile):
    """p(page) / p(story): one number apart in each column, and sums to 1 over all sentences."""
    pile = pile[:10]
    exact = TornOracle(evening).log_probs(*sides(pile))
    pages = [torch.cat([b.story[:-1], a.sentence[1:]]) for a, b in itertools.product(pile, pile)]
    pages = [page if len(page) <= evening.length else page[:3] for page in pages]
    whole = evening.log_prob(evening.canvas(pages)).view(10, 10)
    assert torch.equal(whole.isfinite(), exact.isfinite())
    assert exact.diagonal().isfinite().all() and exact.isinf().any()
    for column in range(10):
        fits = exact[:, column].isfinite()
        gap = (whole - exact)[fits, column]
        torch.testing.assert_close(gap, gap[:1].expand_as(gap))


def test_the_oracle_sums_to_one(evening):
    """Over all sentences that can follow a story (found by sampling until none is missing)."""
    torn = TornPages(evening)
    pages = torn.sample(12_000, torch.Generator().manual_seed(2))
    story = next(p.story for p in pages if "sleep" in evening.text(p.story) and len(p.story) > 20)
    table = evening.grammar.tables
    names = len({row[0] for row in table["person"].rows}) * len(table["mood"].rows)
    after = {tuple(p.sentence.tolist()) for p in pages if "Yours" in evening.text(p.sentence)}
    assert len(after) == names  # "Yours, {mood} {name}."
    log_p = TornOracle(evening).log_probs([torch.tensor(each) for each in after], [story])
    assert float(log_p.exp().sum()) == pytest.approx(1)


def test_a_story_of_another_paper_is_refused(evening, pile):
    with pytest.raises(ValueError, match="story 0 is none of this grammar's"):
        TornOracle(evening).log_probs([pile[0].sentence], [pile[0].sentence])


def test_no_reader_passes_the_oracle_by_its_own_account(evening):
    oracle, torn = TornOracle(evening), TornPages(evening)
    hits, sure = [], []
    for seed in range(12):
        scores = oracle.log_probs(*sides(torn.sample(32, torch.Generator().manual_seed(seed))))
        hits.append(found(scores))
        sure.append(scores.softmax(1).amax(1))
    assert abs(float(torch.cat(hits).mean() - torch.cat(sure).mean())) < 0.05


def test_late_interaction_is_the_sum_of_best_matches():
    chance = torch.Generator().manual_seed(3)
    queries = F.normalize(torch.randn(2, 3, 4, generator=chance), dim=-1)
    stories = F.normalize(torch.randn(3, 5, 4, generator=chance), dim=-1)
    q_valid, s_valid = torch.ones(2, 3).bool(), torch.ones(3, 5).bool()
    q_valid[1, 2] = s_valid[2, 3:] = False
    scores = late_interaction(queries, q_valid, stories, s_valid)
    for q, s in itertools.product(range(2), range(3)):
        words = [w for w in range(3) if q_valid[q, w]]
        seen = [u for u in range(5) if s_valid[s, u]]
        by_hand = sum(max(float(queries[q, w] @ stories[s, u]) for u in seen) for w in words)
        assert float(scores[q, s]) == pytest.approx(by_hand, abs=1e-5)


@pytest.mark.parametrize("pool", ["first", "last", "mean", "late"])
@pytest.mark.parametrize("mask", [causal, bidirectional], ids=lambda mask: mask.name)
def test_a_longer_neighbour_changes_no_score(pile, pool, mask):
    model, objective = small(pool).eval(), Matching(mask)
    short = sorted(pile, key=lambda page: len(page.story))
    with torch.no_grad():
        few = model.answers(objective.batch(short[:4]))
        many = model.answers(objective.batch([*short[:4], short[-1]]))
    torch.testing.assert_close(few, many[:4, :4], atol=1e-4, rtol=0)


def test_the_first_token_of_a_causal_reader_knows_nothing(pile):
    with torch.no_grad():
        scores = small("first").answers(Matching(causal).batch(pile))
        assert torch.allclose(found(scores), torch.full((24,), 1 / 24, dtype=torch.float64))
        opened = small("first").answers(Matching(bidirectional).batch(pile))
    assert (opened - opened[:, :1]).abs().max() > 1e-5


def test_read_twice_only_the_second_reading_is_used(pile):
    page = pile[0]
    twice = page.twice()
    assert torch.equal(twice.sentence[len(page.sentence) :], page.sentence[1:])
    valid = torch.zeros(2, 20, dtype=torch.bool)
    valid[0, :17], valid[1, :9] = True, True  # <bos> and twice eight, twice four tokens
    used = small("mean", second=True).used(valid)
    assert used[0].nonzero()[:, 0].tolist() == list(range(9, 17))
    assert used[1].nonzero()[:, 0].tolist() == list(range(5, 9))
    model = small("mean", second=True)
    with torch.no_grad():
        assert model.answers(Matching(causal).batch([p.twice() for p in pile])).isfinite().all()


def test_positions_begin_at_start_and_can_be_told_apart(pile):
    page = pile[0]
    moved = Torn(page.sentence, page.story, 9)
    here, there = (Matching().batch([each, pile[1]]) for each in (page, moved))
    gap = there.positions - here.positions
    assert (gap[0, : len(page.sentence)] == 9).all() and (gap[1:] == 0).all()
    assert (there.positions[0, len(page.sentence) :] == 0).all()


def test_the_loss_is_cross_entropy_over_the_batch(pile):
    objective, model = Matching(), small()
    batch = objective.batch(pile)
    logits = model.answers(batch)
    expected = F.cross_entropy(logits, torch.arange(24), reduction="sum")
    torch.testing.assert_close(objective.loss(logits, batch), expected)
    torch.testing.assert_close(surprise(logits).sum(), expected)
    assert float(found(torch.eye(4)).sum()) == 4 and float(found(torch.zeros(4, 4)).sum()) == 1
    dead = torch.full((2, 2), -math.inf)
    assert float(found(dead).sum()) == 1  # all tie


def test_fit_trains_it_and_refuses_slices(evening, pile):
    model, objective = small(), Matching()
    with torch.no_grad():
        before = float(surprise(model.answers(objective.batch(pile))).mean())
    fit(model, objective, TornPages(evening), 30, batch=16, progress=False)
    with torch.no_grad():
        after = float(surprise(model.answers(objective.batch(pile))).mean())
    assert after < before - 0.3
    with pytest.raises(ValueError, match="cannot be sliced"):
        fit(model, objective, TornPages(evening), 1, batch=8, accumulate=2, progress=False)


def test_what_makes_no_sense_is_refused(pile):
    with pytest.raises(ValueError, match="pool is one of first, last, mean, late"):
        Embedder(gpt(), "max")
    with pytest.raises(ValueError, match="does not fit rows of 5"):
        Matching().alone(pile, 5)
