"""Exercises of chapter 09: the stub is refused, the solution passes, wrong answers are named."""

import math

import pytest
import torch
from exercise_cells import cell

from mylib import tokenizer
from mylib.exercises import NotSolved, chapter09
from mylib.tokenizer import MASK

NOTEBOOK = "09-denoising.ipynb"


def solution(number, name):
    return cell(NOTEBOOK, f"exercise-{number}-solution", tokenizer=tokenizer)[name]


def test_stubs_are_refused():
    for number, name, check in (
        (1, "corrupt", chapter09.check_corrupt),
        (2, "bound_of_batch", chapter09.check_bound),
        (3, "pull", lambda answer: chapter09.check_discount(answer, "early")),
    ):
        with pytest.raises(NotSolved, match="write your answer"):
            check(cell(NOTEBOOK, f"exercise-{number}-stub")[name])


def test_solutions_pass(capsys):
    chapter09.check_corrupt(solution(1, "corrupt_solution"))
    chapter09.check_bound(solution(2, "bound_of_batch_solution"))
    chapter09.check_discount(solution(3, "pull_solution"), "early")
    assert capsys.readouterr().out.count("solved") == 3


# -- 9.1 ---------------------------------------------------------------------------------------


def corrupted(
    ids,
    words,
    chance,
    *,
    rates=None,
    rest=True,
    same=False,
    target=MASK,
    hidden_target=None,
    outside=False,
    whole=(int, int),
    start=None,
    overwrite=False,
):
    """The right answer, with one part replaced."""
    u_mask, u_random = torch.rand(2, generator=chance).tolist() if rates is None else rates
    hide = whole[0](len(ids) * 0.99 * u_mask)
    spoil = whole[1]((len(ids) - hide if rest else len(ids)) * (0.99 - 0.99 * u_mask) * u_random)
    places = torch.randperm(len(ids), generator=chance)
    hidden, wrong = places[:hide], places[hide : hide + spoil]
    if overwrite:
        wrong = torch.randperm(len(ids), generator=chance)[:spoil]
    inputs, targets = ids.clone(), ids.clone()
    inputs[hidden] = MASK
    step = torch.randint(0 if same else 1, len(words), (spoil,), generator=chance)
    start = words.start if start is None else start
    inputs[wrong] = start + (ids[wrong] - words.start + step) % len(words)
    if outside:
        inputs[wrong] = words.stop + step
    targets[wrong] = ids[wrong] if target is None else target
    if hidden_target is not None:
        targets[hidden] = hidden_target
    return inputs, targets


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"rest": False}, r"share of \*all\* words"),
        ({"same": True}, "were replaced by themselves"),
        ({"target": None}, "the proofreader's mark, not the word"),
        ({"hidden_target": MASK}, "the target is the word, not"),
        ({"outside": True}, "one of `words`; some of yours are not"),
        ({"rates": (0.5, 0.5)}, "the same in all rows"),
        ({"rates": (0.0, 0.5)}, "no word is hidden"),
        ({"rates": (0.5, 0.0)}, "no word is replaced"),
        ({"start": 0}, "came out as .MASK.: ids begin at words.start"),
        ({"overwrite": True}, "or your wrong places overwrite hidden ones"),
        ({"whole": (round, int)}, "words are rounded down"),
        ({"whole": (int, round)}, "a row of one word is changed"),
        ({"whole": (round, round)}, "words are rounded down"),
        ({"whole": (int, math.ceil)}, "words are rounded down"),
    ],
)
def test_wrong_corruption_is_named(options, line):
    with pytest.raises(NotSolved, match=line):
        chapter09.check_corrupt(lambda *a: corrupted(*a, **options))


def by_chance(ids, words, chance):
    """Each word drawn by itself: the right shares, and no count."""
    u_mask, u_random = torch.rand(2, generator=chance).tolist()
    rates = 0.99 * u_mask, (0.99 - 0.99 * u_mask) * u_random
    hidden = torch.rand(len(ids), generator=chance) < rates[0]
    wrong = ~hidden & (torch.rand(len(ids), generator=chance) < rates[1])
    step = torch.randint(1, len(words), ids.shape, generator=chance)
    other = words.start + (ids - words.start + step) % len(words)
    inputs = torch.where(wrong, other, ids).masked_fill(hidden, MASK)
    return inputs, ids.masked_fill(wrong, MASK)


def lazy_rates(ids, words, chance):
    """Rates from half of their ranges."""
    u_mask, u_random = torch.rand(2, generator=chance).tolist()
    return corrupted(ids, words, chance, rates=(0.5 * u_mask, u_random))


def hidden_often(ids, words, chance):
    """The second rate reaches 0.99 of the rest, whatever the first."""
    hide, spoil = torch.rand(2, generator=chance).tolist()
    return corrupted(ids, words, chance, rates=(hide, spoil**2))


def all_gone(ids, words, chance):
    inputs, targets = corrupted(ids, words, chance)
    left = (inputs == ids) & (targets == ids)
    if left.sum() < 12:
        inputs = inputs.masked_fill(left, MASK)
    return inputs, targets


@pytest.mark.parametrize(
    ("corrupt", "line"),
    [
        (lazy_rates, "the first rate is uniform"),
        (hidden_often, "where the written rule gives 16 %"),
        (by_chance, "words are rounded down"),
        (all_gone, "never all words are corrupted"),
        (lambda *a: corrupted(*a)[0], "return two tensors"),
        (lambda i, w, g: (i.roll(1) * 0 + MASK, i.roll(1)), "no word is replaced"),
        (lambda *a: 1 / 0, "stopped with ZeroDivisionError"),
    ],
)
def test_other_wrong_corruption_is_named(corrupt, line):
    with pytest.raises(NotSolved, match=line):
        chapter09.check_corrupt(corrupt)


def test_an_untouched_word_keeps_its_target():
    def shifted(ids, words, chance):
        inputs, targets = corrupted(ids, words, chance)
        left = (inputs == ids) & (targets == ids)
        return inputs, torch.where(left, ids.roll(1), targets)

    with pytest.raises(NotSolved, match="the target is the word of the clean row"):
        chapter09.check_corrupt(shifted)


# -- 9.2 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bound", "line"),
    [
        (lambda n, h: n.sum() / h.sum(), "mean over hidden words: that is nats for a word"),
        (lambda n, h: n.shape[1] * n.sum() / h.sum(), "you pool the rows of the batch"),
        (lambda n, h: n.sum(1).mean(), "each answer stands for T / k"),
        (lambda n, h: n.mean(), "the shown ones cost nothing"),
        (lambda n, h: (n.sum(1) / h.sum(1)).mean(), "for a word|for one word"),
        (lambda n, h: (n.sum(1) * 4 / h.sum(1)).sum(), "nats for \\*one\\* document"),
        (lambda n, h: (n.sum(1) * 4 / h.sum(1)).mean() + 0.1, "the mean over all orders"),
        (lambda n, h: (n.sum(1) * 4 / h.sum(1)).mean() * float("nan"), "gives nan"),
    ],
)
def test_wrong_averages_are_named(bound, line):
    with pytest.raises(NotSolved, match=line):
        chapter09.check_bound(bound)


def test_other_forms_of_the_bound_are_welcome(capsys):
    """Each answer weighed by T / k, summed, divided by the rows."""

    def weighed(nats, hidden):
        weight = nats.shape[1] / hidden.sum(1, keepdim=True)
        return float((nats * weight).sum()) / len(nats)

    chapter09.check_bound(weighed)
    assert "solved" in capsys.readouterr().out


def test_the_mean_over_orders_is_the_mean_over_pages():
    costs = chapter09._costs(5)
    by_pages = sum(
        chance * float(costs[some].sum()) * 4 / len(some) for some, chance in chapter09._pages()
    )
    assert by_pages == pytest.approx(chapter09.order_mean(costs))


# -- 9.3 ---------------------------------------------------------------------------------------


def pulled(logits, target, keep_mask, *, sign=1, always=False, never=False, up=False):
    unsure = bool(logits.argmax() == MASK)
    weight = 1.0 if never else keep_mask if unsure or always else 1.0
    gradient = logits.softmax(0)
    gradient[target] -= 1
    gradient = sign * weight * gradient
    if up and unsure:
        gradient[MASK] = -gradient[MASK]
    return gradient


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"sign": -1}, "your signs are turned"),
        ({"always": True}, "only where .MASK. is the likeliest"),
        ({"never": True}, "your gradient is not"),
        ({"up": True}, "as if a loss weight taught abstention"),
        ({"sign": 2}, "the gradient of weight x cross-entropy"),
    ],
)
def test_wrong_pulls_are_named(options, line):
    with pytest.raises(NotSolved, match=line):
        chapter09.check_discount(lambda *a: pulled(*a, **options), "early")


@pytest.mark.parametrize(
    ("when", "line"), [("late", "what one would hope"), ("never", '"early" or "late"')]
)
def test_wrong_times_are_named(when, line):
    with pytest.raises(NotSolved, match=line):
        chapter09.check_discount(pulled, when)


def test_a_pull_that_is_no_gradient_is_named():
    with pytest.raises(NotSolved, match="one number for each of them"):
        chapter09.check_discount(lambda logits, *_: logits[0], "early")


def test_the_pull_is_autograd_s():
    """The reference by hand against the note's loss, as `Denoising` has it."""
    logits = torch.randn(9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    logits[MASK] = logits.max() + 1
    logits.requires_grad_()
    weight = 0.25 if logits.argmax() == MASK else 1.0
    (weight * torch.nn.functional.cross_entropy(logits[None], torch.tensor([5]))).backward()
    torch.testing.assert_close(logits.grad, pulled(logits.detach(), 5, 0.25))
