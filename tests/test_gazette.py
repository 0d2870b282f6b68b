"""The oracle against every document written out (tests/brute.py), and the shipped editions."""

import math
import re
import tomllib
from itertools import pairwise
from unittest import mock

import brute
import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch.nn.functional import pad

from mylib import tokenizer
from mylib.files import data_path
from mylib.gazette import EDITIONS, Gazette
from mylib.grammar import TAGS, load_grammar
from mylib.questions import SHARES, pairs
from mylib.tokenizer import BOS, EOS, MASK, PAD

CLOSE = {"rtol": 0, "atol": 1e-10}
some = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def chance(seed):
    return torch.Generator().manual_seed(seed)


def some_rows(every, n, generator, wrong=0.2):
    """Documents of the grammar, some with one word of another document or any other word."""
    ids = every.ids[torch.randint(len(every.ids), (n,), generator=generator)].clone()
    place = torch.randint(ids.shape[1], (n,), generator=generator)
    other = every.ids[torch.randint(len(every.ids), (n,), generator=generator), place]
    anything = torch.randint(every.vocab_size, (n,), generator=generator)
    draw = torch.rand(n, generator=generator)
    word = torch.where(draw < wrong / 4, anything, other)
    ids[torch.arange(n), place] = torch.where(draw < wrong, word, ids[torch.arange(n), place])
    return ids


def shown(shape, generator):
    """Random visible sets, from nothing to everything."""
    return torch.rand(shape, generator=generator) < torch.rand(shape[0], 1, generator=generator)


def uniform(gazette, time):
    return torch.full((time, gazette.vocab_size), 1 / gazette.vocab_size, dtype=torch.float64)


# -- against brute force --------------------------------------------------------------------------


@given(brute.grammars(), seeds)
@some
def test_posterior_of_shown_words(press, raw, seed):
    gazette, every = press(raw)
    generator = chance(seed)
    rows = some_rows(every, 8, generator)
    cut = int(torch.randint(1, every.length + 1, (1,), generator=generator))
    longer = pad(rows, (0, 2))
    longer[::3, -1] = EOS  # a word where there can be none
    for ids in (rows, rows[:, :cut], longer):
        visible = shown(ids.shape, generator)
        found = gazette.posterior(ids, visible=visible)
        assert found.log_probs.shape == (*ids.shape, gazette.vocab_size)
        for b, (row, seen) in enumerate(zip(ids, visible, strict=True)):
            wanted, total = every.posterior(row, seen)
            time = min(len(row), every.length)
            assert bool(found.dead[b]) == (total == 0)
            wanted = uniform(gazette, time) if total == 0 else wanted[:time]
            torch.testing.assert_close(found.log_probs[b, :time].exp(), wanted, **CLOSE)
            assert abs(found.log_evidence[b].exp() - total) < 1e-10
            if total > 0:  # beyond the canvas there is only padding
                assert (found.log_probs[b, time:, PAD] == 0).all()


@given(brute.grammars(), seeds)
@some
def test_posterior_of_likelihoods(press, raw, seed):
    gazette, every = press(raw)
    generator = chance(seed)
    time = int(torch.randint(1, every.length + 1, (1,), generator=generator))
    shape = (4, time, gazette.vocab_size)
    evidence = torch.rand(shape, generator=generator, dtype=torch.float64) * 3
    possible = torch.zeros(shape[1:]).scatter_(1, every.ids[:, :time].T, 1.0)
    evidence[torch.rand(shape, generator=generator) < 0.3 * possible] = 0.0
    found = gazette.posterior(evidence)
    for b in range(4):
        wanted, total = every.weighed(evidence[b])
        wanted = uniform(gazette, time) if total == 0 else wanted[:time]
        assert bool(found.dead[b]) == (total == 0)
        torch.testing.assert_close(found.log_probs[b].exp(), wanted, **CLOSE)
        assert math.isclose(found.log_evidence[b].exp(), total, rel_tol=1e-10, abs_tol=0)


@given(brute.grammars(), seeds, st.sampled_from([0.0, 0.1, 0.75, 1.0]))
@some
def test_noisy_evidence(press, raw, seed, noise):
    """The channel, word by word: kept with 1 - noise, else one of the other lexicon words."""
    gazette, every = press(raw)
    generator = chance(seed)
    ids = some_rows(every, 4, generator, wrong=0.8)
    visible = shown(ids.shape, generator)
    evidence = gazette.evidence(ids, visible, noise)
    lexicon = tokenizer.lexicon()

    def likelihood(true, seen):
        if true == seen:
            return 1 - noise
        others = len(lexicon) - (true in lexicon)
        return noise / others if seen in lexicon else 0.0

    found = gazette.posterior(evidence)
    for b in range(4):
        weights = every.p.clone()
        for i in visible[b].nonzero()[:, 0].tolist():
            seen = int(ids[b, i])
            column = every.ids[:, i].tolist()
            weights *= torch.tensor(
                [likelihood(true, seen) for true in column], dtype=torch.float64
            )
        assert math.isclose(found.log_evidence[b].exp(), weights.sum(), rel_tol=1e-9)
        if weights.sum() > 0:
            wanted = every.spread(weights, every.ids, every.vocab_size)
            torch.testing.assert_close(found.log_probs[b].exp(), wanted, **CLOSE)
    if noise == 0:
        sharp = gazette.posterior(ids, visible=visible)
        assert torch.equal(found.log_probs, sharp.log_probs)


@given(brute.grammars())
@some
def test_all_documents_have_probability_one(press, raw):
    gazette, every = press(raw)
    texts = every.texts()
    ids = torch.tensor(list(texts))
    log_p = gazette.log_prob(ids)
    assert abs(log_p.exp().sum() - 1) < 1e-12
    wanted = torch.tensor(list(texts.values()), dtype=torch.float64)
    torch.testing.assert_close(log_p.exp(), wanted, **CLOSE)
    assert gazette.is_valid(ids).all()
    assert gazette.length == every.length


@given(brute.grammars(), seeds)
@some
def test_log_prob_of_what_is_no_document(press, raw, seed):
    gazette, every = press(raw)
    texts = every.texts()
    ids = some_rows(every, 20, chance(seed), wrong=0.9)
    wanted = torch.tensor([texts.get(tuple(row), 0.0) for row in ids.tolist()], dtype=torch.float64)
    torch.testing.assert_close(gazette.log_prob(ids).exp(), wanted, **CLOSE)
    assert torch.equal(gazette.is_valid(ids), wanted > 0)
    assert torch.equal(gazette.is_valid(pad(ids, (0, 3))), wanted > 0)
    assert not gazette.is_valid(pad(ids, (0, 3), value=EOS)).any()
    for row in every.ids[:5]:
        end = int((row == EOS).nonzero()) + 1
        assert gazette.is_valid(row[None, :end]).all()
        assert not gazette.is_valid(row[None, : end - 1]).any()  # no <eos>: not yet a document


@given(brute.grammars(), seeds)
@some
def test_surprise_in_any_order(press, raw, seed):
    gazette, every = press(raw)
    generator = chance(seed)
    ids = every.ids[torch.randint(len(every.ids), (3,), generator=generator)]
    time = ids.shape[1]
    right_to_left = torch.arange(time).flip(0)
    for order in (None, right_to_left, torch.randperm(time, generator=generator)):
        found = gazette.surprise(ids, order)
        torch.testing.assert_close(found.sum(-1), -gazette.log_prob(ids), **CLOSE)
        order = torch.arange(time) if order is None else order
        for b in range(3):
            visible = torch.zeros(time, dtype=torch.bool)
            for i in order.tolist():
                p = every.posterior(ids[b], visible)[0][i, ids[b, i]]
                assert abs(found[b, i] + math.log(p)) < 1e-9
                visible[i] = True


@given(brute.grammars(), seeds)
@settings(max_examples=25)
def test_surprise_of_a_backward_reader_who_does_not_know_the_length(press, raw, seed):
    gazette, slow = press(raw)
    (document,) = gazette.sample(1, chance(seed))
    ends_with = {}  # p(a document ends with these tokens, whatever its length)
    for row, p in slow.texts().items():
        text = [token for token in row if token != PAD]
        for size in range(1, len(text) + 1):
            end = tuple(text[-size:])
            ends_with[end] = ends_with.get(end, 0.0) + p
    wanted, after = [], 0.0
    for i in reversed(range(len(document))):
        here = math.log(ends_with[tuple(document[i:].tolist())])
        wanted.append(after - here)
        after = here
    found = gazette.surprise_backward(document)
    torch.testing.assert_close(found, torch.tensor(wanted[::-1], dtype=torch.float64))
    assert found[-1] == pytest.approx(0, abs=1e-12)
    assert float(found.sum()) == pytest.approx(-float(gazette.log_prob(document[None])), abs=1e-9)


def test_surprise_of_the_impossible_is_inf_once(press):
    gazette, every = press(SMALL)
    ids = every.ids[:1].clone()
    ids[0, 3] = BOS
    found = gazette.surprise(ids)[0]
    assert found[3] == math.inf and not found.isnan().any()
    assert (found[4:] == 0).all() and found[:3].isfinite().all()


@given(brute.grammars(), seeds)
@some
def test_causal_adapter(press, raw, seed):
    gazette, every = press(raw)
    ids = some_rows(every, 2, chance(seed))
    found = gazette.causal(ids)
    assert found.shape == (*ids.shape, gazette.vocab_size)
    for b in range(2):
        for i in range(every.length - 1):
            visible = torch.arange(every.length) <= i
            wanted, total = every.posterior(ids[b], visible)
            wanted = wanted[i + 1] if total > 0 else uniform(gazette, 1)[0]
            torch.testing.assert_close(found[b, i].exp(), wanted, **CLOSE)
        after = gazette.is_valid(ids[b : b + 1])[0]  # whole document: padding follows for certain
        assert not after or found[b, -1, PAD] == 0


@given(brute.grammars(), seeds)
@some
def test_denoiser_adapter(press, raw, seed):
    gazette, every = press(raw)
    generator = chance(seed)
    ids = some_rows(every, 4, generator)
    ids[shown(ids.shape, generator)] = MASK
    found = gazette.denoiser(ids)
    for b in range(4):
        wanted, total = every.posterior(ids[b], ids[b] != MASK)
        wanted = wanted if total > 0 else uniform(gazette, every.length)
        torch.testing.assert_close(found[b].exp(), wanted, **CLOSE)


@given(brute.grammars(), seeds)
@some
def test_tag_posterior(press, raw, seed):
    gazette, every = press(raw)
    generator = chance(seed)
    rows = pad(some_rows(every, 6, generator), (0, 2))
    cut = int(torch.randint(1, every.length + 3, (1,), generator=generator))
    for ids in (rows, rows[:, :cut]):
        visible = shown(ids.shape, generator)
        found = gazette.tag_posterior(ids, visible)
        assert found.shape == (*ids.shape, len(TAGS))
        for b, (row, seen) in enumerate(zip(ids, visible, strict=True)):
            weights = every.weights(row, seen)
            time = min(len(row), every.length)
            if weights.sum() == 0:
                assert (found[b] == 1 / len(TAGS)).all()
                continue
            wanted = every.spread(weights, every.tags, len(TAGS))[:time]
            torch.testing.assert_close(found[b, :time], wanted, **CLOSE)
            assert (found[b, time:, 0] == 1).all()


@given(brute.grammars())
@some
def test_lengths(press, raw):
    gazette, every = press(raw)
    lengths, mass = (every.ids != PAD).sum(-1) - 2, {}
    for length, p in zip(lengths.tolist(), every.p.tolist(), strict=True):
        mass[length] = mass.get(length, 0.0) + p
    assert abs(gazette.length_entropy + sum(p * math.log(p) for p in mass.values())) < 1e-10
    assert abs(gazette.mean_length - float(every.p @ lengths.double())) < 1e-10


@given(brute.grammars())
@settings(max_examples=25, deadline=None)
def test_entropy(press, raw):
    gazette, every = press(raw)
    wanted = -sum(p * math.log(p) for p in every.texts().values())
    if not gazette.colliding:
        assert gazette.entropy_error == 0.0
        assert abs(gazette.entropy - wanted) < 1e-10
    # 2e-3: what is so rare that 20,000 samples may miss it, and its error with it
    assert abs(gazette.entropy - wanted) < 4 * gazette.entropy_error + 2e-3
    seen = {}
    for row, k in zip(every.ids.tolist(), every.template.tolist(), strict=True):
        seen.setdefault(tuple(row), set()).add(k)
    really = {pair for ks in seen.values() for pair in pairwise(sorted(ks))}
    assert really <= set(gazette.colliding)


@given(brute.grammars(), seeds)
@some
def test_nearest_is_the_least_hamming_distance(press, raw, seed):
    gazette, every = press(raw)
    generator = chance(seed)
    rows = some_rows(every, 6, generator, wrong=1.0)
    mixed = torch.rand(rows.shape, generator=generator) < 0.2
    rows = torch.where(mixed, rows.flip(0), rows)
    longer = torch.cat([rows, rows[:, :3]], dim=1)
    for ids in (rows, rows[:, : max(1, every.length - 2)], longer):
        assert gazette.nearest(ids).tolist() == [every.nearest(row) for row in ids]
    assert (gazette.nearest(every.ids[:10]) == 0).all()


# -- fixed small grammars -------------------------------------------------------------------------

SMALL = {
    "edition": "test",
    "paper": "The Brute",
    "tables": {
        "one": {
            "columns": ["a", "b"],
            "rows": [["Ada", "red"], ["Marlow", "goose"], ["Ashby", "red"], ["Ada", "goose"]],
            "weights": [4, 2, 1, 1],
        },
        "two": {"columns": ["a"], "rows": [["piano"], ["ferry"], ["red"]]},
    },
    "frames": {
        "f": {
            "weight": 2,
            "draws": {"x": "one", "y": "one", "z": "two"},
            "slots": [[{"text": "{x.a} has {y.b} {z.a}", "weight": 3}, "{x.a} {x.b} {y.a} {z.a}."]],
        },
        "g": {"weight": 1, "draws": {"z": "two"}, "slots": [["On {z.a} and {z.a}."]]},
    },
}


def test_sample_frequencies(press):
    gazette, every = press(SMALL)
    n, texts = 20_000, every.texts()
    counts = dict.fromkeys(texts, 0)
    for document in gazette.canvas(gazette.sample(n, chance(0))).tolist():
        counts[tuple(document)] += 1  # a text that cannot be is a KeyError
    expected = torch.tensor([p * n for p in texts.values()])
    seen = torch.tensor([float(c) for c in counts.values()])
    likely = expected > 5
    square = ((seen - expected) ** 2 / expected)[likely].sum()
    free = int(likely.sum()) - 1
    assert free > 30 and abs(square - free) < 5 * math.sqrt(2 * free)


def test_samples_are_reproducible_and_trimmed(press):
    gazette, _ = press(SMALL)
    once, again = (gazette.sample(50, chance(3)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert all(d[0] == BOS and d[-1] == EOS and not (d == PAD).any() for d in once)
    assert len({len(d) for d in once}) > 1
    assert gazette.is_valid(gazette.canvas(once)).all()


@settings(max_examples=20, deadline=None)
@given(brute.grammars(), st.integers(0, 999))
def test_rows_are_drawn_as_the_cumulative_weights_say(press, raw, seed):
    gazette, _ = press(raw)
    weights = gazette._templates.draw_weights
    uniform = torch.rand(50, len(weights), dtype=torch.float64, generator=chance(seed))
    below = (uniform[:, :, None] > weights.cumsum(-1)).sum(-1)  # the definition, written out
    wanted = torch.minimum(below, (weights > 0).sum(-1) - 1)
    assert torch.equal(gazette._templates.draw_rows(50, chance(seed)), wanted)


def test_rounding_never_leaves_the_table(press):
    gazette, _ = press(SMALL)
    templates = gazette._templates
    real = (templates.draw_weights > 0).sum(-1)
    templates.draw_weights = templates.draw_weights * 0.5  # as if the sums fell short of 1
    rows = templates.draw_rows(2000, chance(0))
    assert (rows < real).all()


def test_dead_canvases_are_uniform_and_flagged(press):
    gazette, every = press(SMALL)
    ids = every.ids[:2].clone()
    ids[0, 1] = EOS
    found = gazette.posterior(ids, visible=torch.ones_like(ids).bool())
    assert found.dead.tolist() == [True, False]
    assert found.log_probs[0].exp().allclose(uniform(gazette, every.length), atol=1e-15)
    assert found.log_evidence[0] == -math.inf
    assert not found.log_probs.isnan().any() and not gazette.causal(ids).isnan().any()
    nothing = gazette.posterior(torch.zeros(1, 3, gazette.vocab_size))
    assert nothing.dead.all() and nothing.log_probs.exp().allclose(uniform(gazette, 3))


def test_a_batch_larger_than_memory_is_the_same(press, monkeypatch):
    gazette, every = press(SMALL)
    generator = chance(0)
    ids = some_rows(every, 40, generator)
    visible = shown(ids.shape, generator)
    asked = (
        lambda: gazette.posterior(ids, visible=visible).log_probs,
        lambda: gazette.posterior(gazette.evidence(ids, visible, 0.1)).log_probs,
        lambda: gazette.tag_posterior(ids, visible),
        lambda: gazette.nearest(ids),
        lambda: gazette.log_prob(ids),
    )
    whole = [ask() for ask in asked]
    monkeypatch.setattr("mylib.gazette.CHUNK", 3 * gazette._templates.size)
    for before, ask in zip(whole, asked, strict=True):
        torch.testing.assert_close(ask(), before, rtol=0, atol=1e-13)


def test_empty_batches(press):
    gazette, _ = press(SMALL)
    none = torch.zeros(0, 4, dtype=torch.long)
    assert gazette.log_prob(none).shape == gazette.nearest(none).shape == (0,)
    assert gazette.denoiser(none).shape == (0, 4, gazette.vocab_size)
    assert gazette.causal(none).shape == (0, 4, gazette.vocab_size)
    assert gazette.tag_posterior(none, none.bool()).shape == (0, 4, len(TAGS))


def test_wrong_input(press):
    gazette, every = press(SMALL)
    ids, vocab = every.ids[:2], gazette.vocab_size
    visible = torch.ones_like(ids).bool()
    for bad, says in ((-1, "-1"), (vocab, str(vocab))):
        wrong = ids.clone()
        wrong[0, 1] = bad
        actions = [
            gazette.log_prob,
            gazette.is_valid,
            gazette.nearest,
            gazette.surprise,
            gazette.denoiser,
            gazette.causal,
            lambda ids: gazette.posterior(ids, visible=visible),
            lambda ids: gazette.evidence(ids, visible),
            lambda ids: gazette.tag_posterior(ids, visible),
        ]
        for action in actions:
            with pytest.raises(ValueError, match=rf"ids lie in 0\.\.{vocab - 1}, found .*{says}"):
                action(wrong)
    shapes = [
        lambda: gazette.posterior(ids, visible=visible[:1]),
        lambda: gazette.posterior(ids, visible=visible.long()),
        lambda: gazette.posterior(ids[0], visible=visible[0]),
        lambda: gazette.log_prob(ids[0]),
        lambda: gazette.nearest(ids[0]),
        lambda: gazette.tag_posterior(ids, visible[:, 1:]),
        lambda: gazette.evidence(ids, visible[:1]),
    ]
    for action in shapes:
        with pytest.raises(ValueError, match=r"\(B, T\)"):
            action()
    for wrong in (
        ids,
        torch.ones(2, 3),
        torch.ones(2, 3, vocab - 1),
        torch.ones(2, 3, vocab).int(),
    ):
        with pytest.raises(ValueError, match=rf"float \(B, T, {vocab}\)"):
            gazette.posterior(wrong)
    too_long = torch.ones(1, gazette.length + 1, vocab)
    with pytest.raises(ValueError, match=f"{gazette.length + 1} positions on a canvas"):
        gazette.posterior(too_long)
    for odd in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="finite numbers, 0 or more"):
            gazette.posterior(torch.full((1, 2, vocab), odd))
    for noise in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="noise"):
            gazette.evidence(ids, visible, noise)
    for order in ([0, 1], [0] * ids.shape[1]):
        with pytest.raises(ValueError, match="names each once"):
            gazette.surprise(ids, torch.tensor(order))
    with pytest.raises(ValueError, match=f"of {gazette.length + 1} tokens on a canvas"):
        gazette.canvas([torch.ones(gazette.length + 1).long()])


def test_a_word_without_a_token_is_named(press):
    raw = {**SMALL, "frames": {"f": {"weight": 1, "slots": [["Zyzzyva red"]]}}}
    with pytest.raises(ValueError, match="'Zyzzyva' is not a word of the tokenizer"):
        press(raw)


def test_edited_grammars_change_by_hand(press):
    def entropy(rows, weights, twice=False):
        table = {"columns": ["a"], "rows": rows, "weights": weights}
        frame = {"weight": 1, "draws": {"x": "t"}, "slots": [["On {x.a}" + " {x.a}" * twice]]}
        raw = {"edition": "e", "paper": "p", "tables": {"t": table}, "frames": {"f": frame}}
        return press(raw)[0].entropy

    two = [["red"], ["goose"]]
    assert abs(entropy(two, [1, 1]) - math.log(2)) < 1e-12
    assert abs(entropy([*two, ["Ada"], ["ferry"]], [1] * 4) - math.log(4)) < 1e-12
    assert abs(entropy(two, [3, 1]) - (math.log(4) - 0.75 * math.log(3))) < 1e-12
    assert abs(entropy(two * 2, [2, 1, 1, 0.0 + 4]) - entropy(two, [3, 5])) < 1e-12  # merged
    assert abs(entropy(two, [1, 1], twice=True) - math.log(2)) < 1e-12


# -- the shipped editions -------------------------------------------------------------------------

LIMITS = {"small": ((1, 60), (1, 180)), "sunday": ((150, 300), (350, 500))}


@pytest.fixture(scope="module", params=["small", "sunday"])
def edition(request):
    return request.param, Gazette.load(request.param)


def raw_edition(name):
    return tomllib.loads(data_path(EDITIONS[name]).read_text(encoding="utf-8"))


def written(gazette, text):
    return bool(gazette.is_valid(torch.tensor([[BOS, *tokenizer.encode(text), EOS]]))[0])


def test_sizes(edition):
    name, gazette = edition
    (fewest, most), (few_words, many_words) = LIMITS[name]
    assert fewest <= len(gazette.grammar.templates) <= most
    assert few_words <= len(gazette.grammar.units()) <= many_words
    lengths = {len(template.cells) for template in gazette.grammar.templates}
    assert min(lengths) >= 8 and max(lengths) <= 40
    assert 0.8 <= gazette.entropy / gazette.mean_length <= 1.4
    assert gazette.length == max(lengths) + 2
    assert 0 < gazette.length_entropy < gazette.entropy


def test_no_two_templates_write_one_text(edition):
    _, gazette = edition
    assert gazette.colliding == [] and gazette.entropy_error == 0.0


def test_entropy_is_the_mean_surprise(edition):
    _, gazette = edition
    surprise = -gazette.log_prob(gazette.canvas(gazette.sample(1500, chance(1))))
    error = float(surprise.std()) / math.sqrt(len(surprise))
    assert abs(float(surprise.mean()) - gazette.entropy) < 4 * error < 0.5


def test_whole_documents_are_no_riddle(edition):
    """Every tag is certain given the document: an open tagger's ceiling is 1."""
    _, gazette = edition
    templates = gazette._templates
    ids, template, _ = templates.draw(200, chance(2))
    found = gazette.tag_posterior(ids, torch.ones_like(ids).bool())
    assert (found.amax(-1) > 1 - 1e-12).all()
    for row, k in zip(found.argmax(-1).tolist(), template.tolist(), strict=True):
        cells = gazette.grammar.templates[k].cells
        assert row[: len(cells) + 2] == [0, *(tag_of(gazette, k, cell) for cell in cells), 0]


def tag_of(gazette, k, cell):
    if not cell.draw:
        return 0
    table = gazette.grammar.tables[gazette.grammar.templates[k].draws[cell.draw]]
    return TAGS.index(table.tags.get(cell.column, "O"))


def tagged_words(gazette):
    """(word, tag, tag of the next cell) wherever a template can write the word."""
    for k, template in enumerate(gazette.grammar.templates):
        tags = [TAGS[tag_of(gazette, k, cell)] for cell in template.cells]
        for i, cell in enumerate(template.cells):
            for word in gazette.grammar.choices(template, cell):
                yield word, tags[i], (*tags, "O")[i + 1]


def test_whether_a_word_is_a_name_is_never_uncertain():
    """B, I or O goes with the word, over both editions; only the type has to be found out."""
    prefixes = {}
    for name in EDITIONS:
        for word, tag, _ in tagged_words(Gazette.load(name)):
            prefixes.setdefault(word, set()).add(tag[0])
    assert {word: found for word, found in prefixes.items() if len(found) > 1} == {}
    assert {tag for found in prefixes.values() for tag in found} == {"B", "I", "O"}


@pytest.mark.parametrize(("name", "fewest"), [("small", 5), ("sunday", 8)])
def test_names_that_are_person_town_and_firm(name, fewest):
    alone, second = {}, {}
    for word, tag, after in tagged_words(Gazette.load(name)):
        if tag[0] == "B" and after[0] != "I":
            alone.setdefault(word, set()).add(tag[2:])
        if tag[0] == "I":
            second.setdefault(word, set()).add(tag[2:])
        if after[0] == "I":
            assert tag[2:] == after[2:], f"{word}: {tag} before {after}"
    ambiguous = [word for word, types in alone.items() if types == {"PER", "LOC", "ORG"}]
    assert len(ambiguous) >= fewest
    # a second word belongs to one type, and all three types have some
    assert all(len(types) == 1 for types in second.values())
    assert set.union(*second.values()) == {"PER", "LOC", "ORG"}


@pytest.mark.parametrize("name", EDITIONS)
def test_two_word_names_are_decided_by_the_second_word(name):
    gazette = Gazette.load(name)
    beginnings = {}
    for word, tag, after in tagged_words(gazette):
        if tag[0] == "B" and after[0] == "I":
            beginnings.setdefault(word, set()).add(tag[2:])
    assert any(len(types) > 1 for types in beginnings.values())


def test_required_frames(edition):
    _, gazette = edition
    frames = " ".join(template.frame for template in gazette.grammar.templates)
    for wanted in ("arrival", "shop", "lost", "correction", "doctor", "headline", "story", "motto"):
        assert wanted in frames
    assert written(
        gazette, "Every effort moves you forward. So says Marlow, who lost his polite red jam."
    )
    assert not written(
        gazette, "Every effort moves you forward. So says Marlow, who lost her polite red jam."
    )
    texts = {gazette.text(d) for d in gazette.sample(1500, chance(4))}
    for sentence in ("can't sleep", "Headline: ", "we wrote that", "opened a shop", "Every effort"):
        assert any(sentence in text for text in texts), sentence
    assert len({text.split("Headline")[0] == "" for text in texts if "Headline" in text}) == 2


def test_an_edited_weight_changes_the_entropy_by_the_chain_rule():
    """H = H(frame) + sum of p(frame) H(frame): from the frames' own entropies, for new weights."""
    raw = raw_edition("small")
    alone = {}
    for name, frame in raw["frames"].items():
        alone[name] = entropy_of({**raw, "frames": {name: frame}})
    for edit in ({}, {"arrival": 40, "motto": 0.5}):
        frames = {n: {**f, "weight": edit.get(n, f["weight"])} for n, f in raw["frames"].items()}
        total = sum(frame["weight"] for frame in frames.values())
        p = {name: frame["weight"] / total for name, frame in frames.items()}
        wanted = sum(p[name] * (alone[name] - math.log(p[name])) for name in p)
        assert abs(entropy_of({**raw, "frames": frames}) - wanted) < 1e-10


def grammar_of(raw):
    with mock.patch.object(tomllib, "loads", lambda text: raw):
        return load_grammar(__file__)


def entropy_of(raw):
    return Gazette(grammar_of(raw)).entropy


def test_a_table_of_twice_the_rows():
    """Every draw of a day gets log 2 nats more, wherever it is printed."""
    raw = raw_edition("small")
    before = Gazette.load("small")
    here = set(before.grammar.units())
    spare = [
        u[1:] for u in Gazette.load("sunday").grammar.units() if u not in here and u[1:].islower()
    ]
    rows = raw["tables"]["day"]["rows"]
    more = [*rows, *([word] for word in spare[: len(rows)])]
    printed = sum(
        template.prior
        * len({c.draw for c in template.cells if template.draws.get(c.draw) == "day"})
        for template in before.grammar.templates
    )
    assert printed > 0.1
    edited = {**raw, "tables": {**raw["tables"], "day": {**raw["tables"]["day"], "rows": more}}}
    assert abs(entropy_of(edited) - before.entropy - printed * math.log(2)) < 1e-10
    again = {**raw, "tables": {**raw["tables"], "day": {"columns": ["name"], "rows": rows * 2}}}
    assert abs(entropy_of(again) - before.entropy) < 1e-10  # the same words twice: merged


def test_load_by_name_and_by_path():
    assert Gazette.load().grammar.edition == Gazette.load("small").grammar.edition == "Evening"
    assert Gazette.load(data_path("gazette.toml")).grammar.edition == "Sunday"
    with pytest.raises(FileNotFoundError, match="monday"):
        Gazette.load("monday")


# -- questions ------------------------------------------------------------------------------------


def test_the_answer_stands_once_where_a_side_is_given(edition):
    _, gazette = edition
    asked = 0
    for template in gazette.grammar.templates:
        for question in template.questions if template.side else ():
            places = [i for i, cell in enumerate(template.cells) if cell == question.answer]
            assert len(places) == 1, template.frame
            words = set(gazette.grammar.choices(template, question.answer))
            for i, cell in enumerate(template.cells):
                if i != places[0]:
                    assert not words & set(gazette.grammar.choices(template, cell))
            asked += 1
    assert asked >= 8


@pytest.mark.parametrize(("right", "none"), [(0.5, 0.2), (0.9, 0.0), (0.25, 0.6), (0.0, 0.5)])
def test_questions_come_in_their_shares(right, none):
    gazette = Gazette.load("small")
    n = 1000
    asked = gazette.questions(n, chance(0), right=right, none=none)
    assert len(asked) == n
    shares = {None: none, "right": (1 - none) * right, "left": (1 - none) * (1 - right)}
    for side, share in shares.items():
        count = sum(item.side == side for item in asked)
        assert abs(count - n * share) <= 4 * math.sqrt(n * share * (1 - share))
    assert all((item.answer is None) == (item.side is None) for item in asked)


def test_answers_are_where_they_are_said_to_be(edition):
    """By the text alone: what the letter says in words is what the span names."""
    _, gazette = edition
    says = [  # (a letter, its trouble and what can be borne, where the deciding words stand)
        (r"What troubles me is the \w+ (?P<ill>\w+); I can bear the \w+ (?P<well>\w+)", "left"),
        (r"I can bear the \w+ (?P<well>\w+); what troubles me is the \w+ (?P<ill>\w+)", "left"),
        (r"The \w+ (?P<ill>\w+) and the \w+ (?P<well>\w+): the first troubles me", "right"),
        (r"The \w+ (?P<well>\w+) and the \w+ (?P<ill>\w+): the second troubles me", "right"),
    ]
    known = 0
    for item in gazette.questions(300, chance(5)):
        document, question = gazette.text(item.document), tokenizer.decode(item.question.tolist())
        assert item.document[0] == BOS and item.document[-1] == EOS and question.endswith("?")
        assert not (item.question < tokenizer.FIRST_WORD).any()
        assert gazette.is_valid(item.document[None]).all()
        if item.answer is None:
            assert not any(re.search(pattern, document) for pattern, _ in says)
            continue
        first, last = item.answer
        assert first == last
        word = tokenizer.decode(item.document[first : last + 1].tolist())
        for pattern, side in says:
            if match := re.search(pattern, document):
                wanted = match["well" if question == "What can the writer bear?" else "ill"]
                assert (wanted, side) == (word, item.side)
                known += 1
    assert known > 50


ASKING = {
    **SMALL,
    "frames": {
        "f": {
            "weight": 1,
            "draws": {"x": "one", "z": "two", "y": "one"},
            "slots": [
                [
                    {"text": "{x.a} has the {z.a}.", "weight": 3, "side": "left"},
                    {"text": "On the {z.a} {x.a}, {x.b}, red.", "weight": 1, "side": "left"},
                    {"text": "The {z.a}.", "weight": 5},
                    {"text": "The {y.a} red.", "weight": 2},
                ]
            ],
            "questions": [
                {"ask": "{z.a}, {z.a} and the goose?", "answer": "x.a"},
                {"ask": "On {z.a} and {y.a}?", "answer": "x.a"},
            ],
        },
        "g": {"weight": 1, "draws": {"x": "one"}, "slots": [["Ada and {x.a}."]]},
    },
}


def test_placeholders_hold_the_rows_of_the_document():
    gazette = Gazette(grammar_of(ASKING))
    asked = gazette.questions(400, chance(0), right=0.0, none=0.3)
    first, none = 0, 0
    for item in asked:
        document, question = gazette.text(item.document), tokenizer.decode(item.question.tolist())
        thing = re.search(r"[Tt]he (\w+)", document)[1]
        assert question == f"{thing}, {thing} and the goose?"  # the other names what is not there
        if item.answer is None:
            assert document == f"The {thing}."
            none += 1
            continue
        place = 1 if document.startswith(("Ada", "Marlow", "Ashby")) else 4
        assert item.answer == (place, place)
        first += place == 1
    # left: priors 3 to 1
    share = first / (len(asked) - none)
    assert abs(share - 0.75) < 4 * math.sqrt(0.75 * 0.25 / (len(asked) - none))


def test_questions_that_cannot_be_had():
    gazette = Gazette(grammar_of(ASKING))
    assert {name: len(found) for name, found in pairs(gazette._templates).items()} == {
        "left": 2,
        "right": 0,
        "none": 1,
    }
    with pytest.raises(ValueError, match=r"edition test has no question.*'right'"):
        gazette.questions(3, chance(0))
    with pytest.raises(ValueError, match="'left'"):
        Gazette(grammar_of(SMALL)).questions(3, chance(0))
    for shares in ({"right": 1.5}, {"right": -0.1}, {"none": 2}, {"none": math.nan}):
        with pytest.raises(ValueError, match=r"shares lie in \[0, 1\]"):
            gazette.questions(3, chance(0), **shares)
    assert gazette.questions(0, chance(0), right=0.0) == []
    assert SHARES == ("left", "right", "none")


def test_questions_are_reproducible():
    gazette = Gazette.load("small")
    once, again = (gazette.questions(30, chance(7)) for _ in range(2))
    for a, b in zip(once, again, strict=True):
        assert torch.equal(a.document, b.document) and torch.equal(a.question, b.question)
        assert (a.answer, a.side) == (b.answer, b.side)
