"""Absorbing diffusion: its bound counted out over everything that chance can do, and by orders."""

import itertools

import pytest
import tiny
import torch
from test_objectives import documents, text

from mylib.gazette import Gazette
from mylib.leaks import certificate
from mylib.masks import bidirectional, dense
from mylib.objectives import AbsorbingDiffusion, Rows
from mylib.tokenizer import BOS, EOS, MASK, PAD


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


def hidden(rows, seed=0, **options):
    (batch,) = AbsorbingDiffusion(**options).passes(rows, chance(seed))
    return batch


def cost(model, batch, objective=None):
    """The weighted nats of every row, (B,), float64; the model is any ids -> log p (B, T, V)."""
    objective = objective or AbsorbingDiffusion()
    nats = objective.nll(model(batch.inputs), batch).double() * batch.weights
    owner = batch.asked.nonzero()[:, 0]
    return torch.zeros(len(batch.inputs), dtype=torch.float64).index_add_(0, owner, nats)


# -- the bound, exactly --------------------------------------------------------------------------
# All that chance can do is laid out as rows of one batch: `times` and `noise` stand for the draws.


class Laid(AbsorbingDiffusion):
    """The objective with its noise given."""

    def __init__(self, times, noise, monkeypatch, **options):
        super().__init__(**options)
        self.given, self.noise, self.patch = times, noise, monkeypatch

    def _times(self, rows, generator):
        assert rows == len(self.given)
        return self.given

    def passes(self, rows, generator=None):
        with self.patch.context() as patch:
            patch.setattr(torch, "rand", lambda shape, generator: self.noise.view(shape))
            return super().passes(rows, generator)


def by_count(model, ids, patch):
    """The mean over all counts and all orders of hiding: one row each, all equally likely."""
    time = len(ids)
    orders = list(itertools.permutations(range(time)))
    noise = torch.tensor(orders).float().repeat(time, 1) / time
    count = torch.arange(1, time + 1).repeat_interleave(len(orders))
    rows = Rows.padded([ids] * len(noise)).canvas
    (batch,) = Laid((count - 0.5) / time, noise, patch).passes(rows)
    assert torch.equal(batch.asked.sum(1), count)
    return float(cost(model, batch).sum() / batch.denominator)


def by_each(model, ids, patch):
    """The mean over all subsets and times: Gauss-Legendre, exact for these polynomials in t."""
    time = len(ids)
    subsets = torch.tensor(list(itertools.product([False, True], repeat=time)))
    size = subsets.sum(1)
    # Five nodes on (0, 1): exact to degree 9.
    node = torch.tensor([0.0, 0.5384693101056831, -0.5384693101056831, 0.906179845938664])
    node = torch.cat([node, -node[-1:]]).double() / 2 + 0.5
    share = torch.tensor([0.5688888888888889, *[0.47862867049936647] * 2])
    share = torch.cat([share, torch.tensor([0.23692688505618908] * 2)]).double() / 2
    total = 0.0
    for t, part in zip(node, share, strict=True):
        rows = Rows.padded([ids] * len(subsets)).canvas
        noise = torch.where(subsets, 0.0, 0.9999)
        (batch,) = Laid(t.expand(len(subsets)), noise, patch, hide="each").passes(rows)
        assert torch.equal(batch.asked, subsets)
        likely = t**size * (1 - t) ** (time - size)
        total += part * (likely * cost(model, batch)).sum()
    return float(total)


def by_orders(model, ids):
    """What the row costs when its words are revealed one by one, over all orders: the slow way."""
    orders = list(itertools.permutations(range(len(ids))))
    total = 0.0
    for order in orders:
        shown = torch.full_like(ids, MASK)
        for place in order:
            log_p = model(shown[None])[0, place].double().log_softmax(-1)
            total -= float(log_p[ids[place]])
            shown[place] = ids[place]
    return total / len(orders)


def test_both_ways_cost_what_all_orders_cost_on_average(monkeypatch):
    net = tiny.gpt()
    with torch.no_grad():
        for seed, time in ((0, 2), (1, 3), (2, 4)):
            ids = tiny.ids(1, time, seed)[0]
            wanted = by_orders(lambda i: net(i, bidirectional), ids)
            for mean in (by_count, by_each):
                found = mean(lambda i: net(i, bidirectional), ids, monkeypatch)
                assert found == pytest.approx(wanted, rel=1e-5), (mean.__name__, time)
            # Without weights it is something else.
            batch = hidden(Rows.padded([ids] * 50), 0, weighting="none")
            assert (batch.weights == 1).all()


SMALL = {
    "edition": "test",
    "paper": "The Tiny",
    "tables": {"one": {"columns": ["a", "b"], "rows": [["Ada", "red"], ["Marlow", "two"]]}},
    "frames": {
        "f": {"weight": 2, "draws": {"x": "one"}, "slots": [["{x.a} {x.b}"]]},
        "g": {"weight": 1, "draws": {}, "slots": [["Ada"]]},
    },
}


def test_a_perfect_reader_meets_the_entropy(press, monkeypatch):
    """The same on one grammar known in full: three documents, 1/3 each, two of them a word longer.

    On a canvas the length is free: what tells it, <eos> and the padding, is asked too.
    """
    gazette, every = press(SMALL)
    assert len(every.p) == 3 and gazette.length == 4
    for ids, p in zip(every.ids, every.p, strict=True):
        assert by_count(gazette.denoiser, ids, monkeypatch) == pytest.approx(-float(p.log()))
        assert by_each(gazette.denoiser, ids, monkeypatch) == pytest.approx(-float(p.log()))


ODD = torch.randn(16, 16, generator=chance()) * 3


def odd(ids):
    """A quick model with an opinion of its own on every set of shown words."""
    return ODD[(ids * torch.arange(1, ids.shape[1] + 1)).sum(1) % 16][:, None].expand(
        *ids.shape, 16
    )


@pytest.mark.parametrize("times", ["antithetic", "independent"])
@pytest.mark.parametrize("hide", ["count", "each"])
def test_every_row_of_a_batch_has_the_right_mean(hide, times, monkeypatch):
    """Not only the batch: a row that stands first is not always the emptiest."""
    ids = tiny.ids(1, 4)[0]
    rows = Rows.padded([ids] * 6).canvas
    objective, noise = AbsorbingDiffusion(hide, times), chance(1)
    found = torch.stack([cost(odd, objective.passes(rows, noise)[0]) for _ in range(500)])
    wanted = by_count(odd, ids, monkeypatch)
    # Weights 1 / t have no finite variance: the rare largest are left to the exact tests.
    error = found.std(0) / 500**0.5
    assert (error < 0.05 * wanted).all() if hide == "count" else (error < 0.3 * wanted).all()
    assert ((found.mean(0) - wanted).abs() < 4 * error).all(), (found.mean(0), wanted)


def test_counts_estimate_with_less_variance():
    rows = Rows.padded([tiny.ids(1, 4)[0]] * 3000).canvas
    for times in ("antithetic", "independent"):
        count, each = (cost(odd, hidden(rows, 1, hide=h, times=times)) for h in ("count", "each"))
        assert count.std() < 0.8 * each.std()
    # The even spread makes the mean of a batch steadier.
    few = Rows.padded([tiny.ids(1, 4)[0]] * 8).canvas
    even, alone = (
        torch.stack([cost(odd, hidden(few, s, times=times)).mean() for s in range(300)]).std()
        for times in ("antithetic", "independent")
    )
    assert even < 0.95 * alone


# -- what is hidden ------------------------------------------------------------------------------


def times(rows, seed=0, **options):
    return AbsorbingDiffusion(**options)._times(rows, chance(seed))


@pytest.mark.parametrize("rows", [1, 2, 7, 64])
def test_antithetic_times_lie_one_in_each_interval(rows):
    first = set()
    for seed in range(40):
        found = times(rows, seed)
        assert ((found > 0) & (found <= 1)).all() and found.dtype == torch.float64
        interval = (found * rows).ceil().long() - 1
        assert sorted(interval.tolist()) == list(range(rows))
        first.add(int(interval[0]))
    assert len(first) > min(rows, 20) / 2  # and the first row's is any of them
    if rows > 2:
        alone = [(times(rows, s, times="independent") * rows).ceil().tolist() for s in range(40)]
        assert any(len(set(one)) < rows for one in alone)


def test_independent_times_are_uniform():
    found = times(20_000, times="independent")
    share = (found * 10).ceil().long().bincount(minlength=11)[1:] / 20_000
    assert ((share - 0.1).abs() < 4 * (0.09 / 20_000) ** 0.5).all()


def test_counts_are_uniform_from_one_to_all():
    rows = Rows.padded(documents([8] * 8)).canvas
    for seed in range(20):  # as many rows as words: each count once
        batch = hidden(rows, seed)
        assert sorted(batch.asked.sum(1).tolist()) == list(range(1, 9))
    many = Rows.padded(documents([5] * 4) * 2000).canvas
    counts = hidden(many, times="independent").asked.sum(1).bincount(minlength=6)
    assert counts[0] == 0
    assert ((counts[1:] / 8000 - 0.2).abs() < 4 * (0.16 / 8000) ** 0.5).all()


def test_the_words_of_a_count_are_any():
    rows = Rows.padded(documents([4]) * 6000).canvas
    asked = hidden(rows).asked
    code = (asked.long() * torch.tensor([1, 2, 4, 8])).sum(1).bincount(minlength=16).double()
    size = torch.tensor([bin(n).count("1") for n in range(1, 16)])
    wanted = 6000 / 4 / torch.tensor([4.0, 6.0, 4.0, 1.0]).double()[size - 1]
    assert ((code[1:] - wanted).abs() < 4 * wanted.sqrt()).all() and code[0] == 0


def test_each_word_is_hidden_by_itself(monkeypatch):
    rows = Rows.padded(documents([5]) * 4000).canvas
    monkeypatch.setattr(AbsorbingDiffusion, "_times", lambda *_: torch.full((4000,), 0.3).double())
    batch = hidden(rows, hide="each")
    share = batch.asked.double().mean(0)
    assert ((share - 0.3).abs() < 4 * (0.21 / 4000) ** 0.5).all()
    none = float((batch.asked.sum(1) == 0).double().mean())  # rows with nothing hidden stay
    assert abs(none - 0.7**5) < 4 * (0.7**5 / 4000) ** 0.5
    assert torch.allclose(batch.weights, torch.tensor(1 / 0.3))


def test_weights_by_count():
    rows = Rows.padded(documents([9, 4, 6, 2]), 9)
    batch = hidden(rows, 3)
    count, size = batch.asked.sum(1), torch.tensor([9, 4, 6, 2])
    owner = batch.asked.nonzero()[:, 0]
    torch.testing.assert_close(batch.weights, (size / count)[owner])
    assert not (batch.asked & ~rows.valid).any() and (batch.inputs[~rows.valid] == PAD).all()
    wide = hidden(rows.canvas, 3)  # on a canvas the padding is text
    torch.testing.assert_close(wide.weights, (9 / wide.asked.sum(1))[wide.asked.nonzero()[:, 0]])
    assert (hidden(rows, 3, weighting="none").weights == 1).all()


def test_where_chance_hides_nothing_a_word_is_asked_for_nothing(monkeypatch):
    monkeypatch.setattr(AbsorbingDiffusion, "_times", lambda *_: torch.full((2,), 1e-9).double())
    rows = Rows.padded([text(BOS, 8, EOS), text(BOS, EOS)])
    for seed in range(10):
        batch = hidden(rows, seed, hide="each")
        assert batch.asked.sum() == 1 and batch.weights.tolist() == [0.0]
        assert not (batch.asked & ~rows.valid).any()
    # Only where nothing at all is hidden: one row that hides something is weighed as ever.
    monkeypatch.setattr(AbsorbingDiffusion, "_times", lambda *_: torch.tensor([1e-9, 1.0]).double())
    batch = hidden(rows, hide="each")
    assert batch.asked.tolist() == [[False] * 3, [True, True, False]]
    assert batch.weights.tolist() == [1.0, 1.0]


def test_a_batch_by_its_parts():
    rows = Rows.padded(documents([9, 4, 6, 2]), 10).canvas
    batch = hidden(rows, 5)
    b, t = rows.tokens.shape
    place = torch.arange(t).expand(b, t)
    assert torch.equal(batch.inputs, rows.tokens.masked_fill(batch.asked, MASK))
    assert torch.equal(batch.targets, rows.tokens[batch.asked])
    assert torch.equal(batch.source, place[batch.asked])  # output i names word i
    assert torch.equal(batch.shown, place.masked_fill(batch.asked, -1))
    assert batch.mask is bidirectional and torch.equal(batch.positions, place)
    assert not batch.copied.any() and batch.weights.dtype == torch.float32
    padded = hidden(Rows.padded(documents([9, 4, 6, 2]), 10), 5)
    assert (padded.shown[padded.inputs == PAD] == -1).all()
    assert not dense(padded.mask, t)[1, 0, :, 4:].any()  # nobody sees the padding there
    other = hidden(rows, 5, mask_token=7)
    assert (other.inputs[other.asked] == 7).all() and torch.equal(other.asked, batch.asked)


@pytest.mark.parametrize(
    ("average", "canvas", "padded"), [("document", 4, 4), ("token", 40, 21), ("hidden", None, None)]
)
def test_three_averages(average, canvas, padded):
    for rows, wanted in (
        (Rows.padded(documents([9, 4, 6, 2]), 10).canvas, canvas),
        (Rows.padded(documents([9, 4, 6, 2]), 10), padded),
    ):
        batch = hidden(rows, 2, average=average)
        assert batch.denominator == (wanted or len(batch.targets))
        assert torch.equal(batch.weights, hidden(rows, 2).weights)  # it changes nothing else
    assert AbsorbingDiffusion().average == "document"


def test_it_depends_on_its_generator_alone():
    rows = Rows.padded(documents([9] * 6)).canvas
    for options in ({}, dict(hide="each"), dict(times="independent")):
        one, again, other = (hidden(rows, seed, **options).inputs for seed in (1, 1, 2))
        assert torch.equal(one, again) and not torch.equal(one, other)
    state = torch.get_rng_state()
    hidden(rows)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("hide", ["count", "each"])
def test_parts_of_a_batch_make_up_the_whole(hide):
    rows = Rows.padded(documents([5, 9, 3, 6, 4]), 10).canvas
    objective = AbsorbingDiffusion(hide)
    (batch,) = objective.passes(rows, chance(2))
    net = tiny.gpt(vocab_size=506).double()
    with torch.no_grad():
        whole = objective.loss(net.answers(batch), batch)
        parts = [batch.take(slice(i, i + 1)) for i in range(5)]
        assert all((p is None) == (not a.any()) for p, a in zip(parts, batch.asked, strict=True))
        parts = [part for part in parts if part]
        total = sum(objective.loss(net.answers(part), part) for part in parts)
    torch.testing.assert_close(total, whole)
    assert {part.denominator for part in parts} == {batch.denominator} == {5.0}


# -- leaks, length, settings ---------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["canvas", "padded", "packed"])
@pytest.mark.parametrize("hide", ["count", "each"])
def test_it_is_sound_and_copies_nothing(hide, layout):
    texts = Gazette.load().sample(12, chance())
    objective = AbsorbingDiffusion(hide)
    rows = {
        "canvas": objective.rows(texts, 34),
        "padded": Rows.padded(texts, 34),
        "packed": Rows.packed(texts, 68),
    }[layout]
    for layers in (1, 4):
        found = certificate(objective, rows, layers, chance(1))
        assert found.sound and found.copies == 0 and found.asked > 50

    class Peeking(AbsorbingDiffusion):  # the certificate can fail
        def passes(self, rows, generator):
            (batch,) = super().passes(rows, generator)
            batch.shown[0, batch.source[0]] = batch.source[0]
            return (batch,)

    assert not certificate(Peeking(), rows, 1, chance(1)).sound


def test_on_a_canvas_the_length_is_free():
    objective, texts = AbsorbingDiffusion(), documents([9, 4])
    assert objective.layout == "canvas" and objective.length == "free"
    rows = objective.rows(texts, 12)
    assert rows.valid.all() and rows.tokens.shape == (2, 12)
    batches = [hidden(rows, seed) for seed in range(20)]
    assert any((batch.targets == PAD).any() for batch in batches)
    assert any((batch.targets == BOS).any() for batch in batches)
    everything = next(b for b in batches if b.asked[0].all())
    assert (everything.inputs[0] == MASK).all()  # then nothing tells two documents apart
    with pytest.raises(ValueError, match="say how many tokens"):
        objective.alone(texts)


@pytest.mark.parametrize("name", ["hide", "times", "weighting", "average"])
def test_settings_it_does_not_know(name):
    for value in ("some", None, "Bound"):
        with pytest.raises(ValueError, match=f"{name} is one of .*, got {value!r}"):
            AbsorbingDiffusion(**{name: value})


def test_its_name():
    assert repr(AbsorbingDiffusion(hide="each")) == (
        "AbsorbingDiffusion(hide='each', times='antithetic', weighting='bound', "
        "average='document', mask_token=3)"
    )
