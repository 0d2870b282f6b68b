"""Heads over our GPT: shapes, pads, pooling, and who moves what."""

from dataclasses import replace

import pytest
import tiny
import torch

from mylib import masks
from mylib.heads import (
    SequenceClassifier,
    SpanExtractor,
    TokenClassifier,
    pooled,
    read_tags,
)
from mylib.masks import bidirectional, causal, padding
from mylib.objectives import Classifying, Labelled, Tagged, Tagging
from mylib.probes import influence, prefix_invariance
from mylib.train import make_optimizers

TAGS = ("O", "B-PER", "I-PER")
IDS = tiny.ids(2, 7)
VALID = torch.tensor([[1] * 7, [1] * 4 + [0] * 3]).bool()


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


def classifier(pool="mean", seed=0):
    head = SequenceClassifier(tiny.gpt(), 3, chance(seed), pool)
    return loud(head)


def loud(head):
    """Weights so large that nothing vanishes."""
    torch.nn.init.normal_(head.out.weight, generator=chance(5))
    return head.eval()


def test_a_head_is_a_linear_layer_on_the_hidden_states():
    base = tiny.gpt()
    for head, outputs in [
        (TokenClassifier(base, TAGS, chance()), 3),
        (SpanExtractor(base, chance()), 2),
    ]:
        for mask in (bidirectional, causal, bidirectional & padding(VALID)):
            found = head(IDS, mask)
            by_hand = base.hidden(IDS, mask) @ head.out.weight.T
            assert found.shape == (2, 7, outputs)
            torch.testing.assert_close(found, by_hand)
        assert torch.equal(head(IDS), head(IDS, bidirectional))
        assert head.config is base.config and head.get_input_embeddings() is base.wte
        assert not head.out.bias.any() and head.out.weight.std() < 0.04
    assert TokenClassifier(base, list(TAGS), chance()).tags == TAGS
    positions = torch.arange(7).flip(0)
    torch.testing.assert_close(
        head(IDS, causal, positions), head.out(base.hidden(IDS, causal, positions))
    )


def test_weights_come_from_the_generator():
    one, same, other = (SpanExtractor(tiny.gpt(), chance(seed)) for seed in (1, 1, 2))
    assert torch.equal(one.out.weight, same.out.weight)
    assert not torch.equal(one.out.weight, other.out.weight)
    state = torch.get_rng_state()
    base = tiny.gpt()
    assert isinstance(base, torch.nn.Module) and len(state)  # torch's own linear layer draws first
    with pytest.raises(ValueError, match="at least 1 output, got 0"):
        TokenClassifier(base, [], chance())
    with pytest.raises(ValueError, match="'first', 'last' or 'mean', not 'max'"):
        SequenceClassifier(base, 2, chance(), "max")


def test_only_what_is_asked_is_answered():
    head = TokenClassifier(tiny.gpt(), TAGS, chance())
    documents = [
        Tagged(IDS[0], torch.tensor([1, 2]), torch.tensor([1, 4]), torch.tensor([2, 6])),
        Tagged(IDS[1, :4], torch.tensor([0]), torch.tensor([3]), torch.tensor([3])),
    ]
    for objective, places in [
        (Tagging(ask="last"), [(0, 2), (0, 6), (1, 3)]),
        (Tagging(ask="first"), [(0, 1), (0, 4), (1, 3)]),
    ]:
        (batch,) = objective.passes(objective.alone(documents), chance())
        every = head(batch.inputs, batch.mask, batch.positions)
        answers = torch.stack([every[place] for place in places])
        torch.testing.assert_close(head.answers(batch), answers)
        turned = replace(batch, positions=batch.positions.flip(1))  # the batch's own positions
        every = head(batch.inputs, batch.mask, turned.positions)
        answers = torch.stack([every[place] for place in places])
        torch.testing.assert_close(head.answers(turned), answers)


@pytest.mark.parametrize("objective", [Tagging(causal), Tagging()], ids=["causal", "open"])
def test_pads_and_neighbours_never_matter(objective):
    head = loud(TokenClassifier(tiny.gpt(), TAGS, chance()))
    documents = [
        Tagged(text, torch.zeros(len(text) - 1).long(), *[torch.arange(1, len(text))] * 2)
        for text in (IDS[0], IDS[1, :4], IDS[0, :2])
    ]
    rows = objective.alone(documents)
    (batch,) = objective.passes(rows, chance())
    together = head.answers(batch).split([len(each.tags) for each in documents])
    for one, found in zip(documents, together, strict=True):
        (alone,) = objective.passes(objective.alone([one]), chance())
        torch.testing.assert_close(head.answers(alone), found)
    rows.rows.tokens[~rows.rows.valid] = 9
    (other,) = objective.passes(rows, chance())
    assert torch.equal(head.answers(other), torch.cat(together))


def test_a_causal_tagger_sees_a_triangle_and_an_opened_one_all():
    head = loud(TokenClassifier(tiny.gpt(), TAGS, chance()))
    assert torch.equal(influence(head, IDS[:1], mask=causal), torch.ones(7, 7).tril().bool())
    assert influence(head, IDS[:1], mask=bidirectional).all()
    assert not prefix_invariance(head, IDS[:1], mask=causal).any()
    assert torch.equal(
        influence(head, IDS[1:], mask=bidirectional & padding(VALID[1:]))[:4],
        VALID[1:].expand(4, 7),
    )


# -- pools -------------------------------------------------------------------------------------


def test_pools_by_hand():
    hidden = torch.randn(2, 7, 4, generator=chance())
    hidden[~VALID] = torch.nan  # a pad's state may be anything
    wanted = {
        "first": torch.stack([hidden[0, 0], hidden[1, 0]]),
        "last": torch.stack([hidden[0, 6], hidden[1, 3]]),
        "mean": torch.stack([hidden[0].mean(0), hidden[1, :4].mean(0)]),
    }
    for pool, by_hand in wanted.items():
        torch.testing.assert_close(pooled(hidden, VALID, pool), by_hand)
    # Pads on the left, and in the middle.
    valid = torch.tensor([[0, 0, 1, 1, 0, 1, 0], [0, 1, 0, 0, 0, 0, 0]]).bool()
    hidden = torch.randn(2, 7, 4, generator=chance())
    assert torch.equal(pooled(hidden, valid, "first"), hidden[[0, 1], [2, 1]])
    assert torch.equal(pooled(hidden, valid, "last"), hidden[[0, 1], [5, 1]])
    torch.testing.assert_close(pooled(hidden, valid, "mean")[0], hidden[0, [2, 3, 5]].mean(0))
    with pytest.raises(ValueError, match="row 1 has no real token"):
        pooled(hidden, VALID & torch.tensor([[True], [False]]), "mean")


@pytest.mark.parametrize("pool", ["first", "last", "mean"])
@pytest.mark.parametrize("mask", [causal, bidirectional], ids=lambda mask: mask.name)
def test_a_class_is_that_of_the_pooled_states(pool, mask):
    head, objective = classifier(pool), Classifying(mask)
    documents = [Labelled(IDS[0], 1), Labelled(IDS[1, :4], 0), Labelled(IDS[0, :1], 2)]
    rows = objective.alone(documents)
    (batch,) = objective.passes(rows, chance())
    found = head.answers(batch)
    assert found.shape == (3, 3)
    for one, logits in zip(documents, found, strict=True):
        states = head.base.hidden(one.ids[None], mask)[0]
        by_hand = {"first": states[0], "last": states[-1], "mean": states.mean(0)}[pool]
        torch.testing.assert_close(logits, head.out(by_hand))
        torch.testing.assert_close(head(one.ids[None], mask)[0], logits)
    rows.rows.tokens[~rows.rows.valid] = 9  # pads never matter
    (other,) = objective.passes(rows, chance())
    assert torch.equal(head.answers(other), found)
    # A part of the batch in which some rows are missing.
    torch.testing.assert_close(head.answers(batch.take(slice(1, 3))), found[1:])


@pytest.mark.parametrize(
    ("pool", "mask", "seen"),
    [
        ("first", causal, [1, 0, 0, 0, 0, 0, 0]),
        ("first", bidirectional, [1] * 7),
        ("last", causal, [1] * 7),
        ("last", masks.anticausal, [0, 0, 0, 0, 0, 0, 1]),
        ("mean", causal, [1] * 7),
    ],
)
def test_what_a_pool_depends_on(pool, mask, seen):
    head = classifier(pool)
    plain = head(IDS[:1], mask)
    swapped = torch.where(torch.eye(7).bool(), (IDS[:1] - 5) % 10 + 6, IDS[:1])
    moved = (head(swapped, mask) - plain).abs().amax(1) > 1e-6
    assert moved.int().tolist() == seen


# -- training and reading ----------------------------------------------------------------------


def test_muon_takes_the_matrices_of_the_blocks_under_a_head_too():
    base = tiny.gpt()
    for model in (base, TokenClassifier(base, TAGS, chance())):
        muon, adamw = make_optimizers(model, 1e-2, 0.0)
        mine = {id(p) for group in muon.param_groups for p in group["params"]}
        assert mine == {id(p) for p in base.h.parameters() if p.dim() == 2}
        rest = {id(p) for group in adamw.param_groups for p in group["params"]}
        assert rest == {id(p) for p in model.parameters()} - mine
    flat = TokenClassifier(tiny.gpt(n_layer=0), TAGS, chance())
    assert len(make_optimizers(flat, 1e-2, 0.0)) == 1


class Scripted(torch.nn.Module):
    """Says what it is told to; one row of logits for each asked output."""

    tags = TAGS

    def __init__(self, logits):
        super().__init__()
        self.logits, self.at = torch.nn.Parameter(logits), 0

    def answers(self, batch):
        self.at += len(batch.targets)
        return self.logits[self.at - len(batch.targets) : self.at]


def test_tags_are_read_word_by_word_or_as_a_sequence():
    documents = [
        Tagged(IDS[0], torch.tensor([1, 2]), torch.tensor([1, 4]), torch.tensor([2, 6])),
        Tagged(IDS[1, :4], torch.tensor([0]), torch.tensor([3]), torch.tensor([3])),
    ]
    logits = torch.tensor([[3.0, 2.9, 0.0], [1.0, 0.0, 2.0], [0.0, 0.0, 9.0]])
    for objective in (Tagging(), Tagging(ask="first")):
        apart = read_tags(Scripted(logits), objective, documents)
        assert apart == [["O", "I-PER"], ["I-PER"]]
        together = read_tags(Scripted(logits), objective, documents, bio=True)
        assert together == [["B-PER", "I-PER"], ["O"]]
        # A constant for one word changes nothing.
        moved = logits + torch.tensor([[50.0], [-50.0], [7.0]])
        assert read_tags(Scripted(moved), objective, documents, bio=True) == together
    assert read_tags(Scripted(logits), Tagging(), []) == []
    # Probabilities are multiplied, not added: 0.1 * 0.85 is more than 0.9 * 0.075.
    p = torch.tensor([[0.9, 0.1, 1e-9], [0.075, 0.075, 0.85]])
    assert read_tags(Scripted(p.log()), Tagging(), documents[:1], bio=True) == [["B-PER", "I-PER"]]
