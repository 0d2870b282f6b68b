"""What written documents are worth: valid, various, as the grammar's; and the choices behind them.

Documents written out (`brute`) and tables of the chi-square distribution are the references.
"""

import copy
import math

import brute
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mylib import quality as judged
from mylib.gazette import Gazette
from mylib.metrics import bootstrap
from mylib.quality import distinct, fit_to_grammar, quality
from mylib.tokenizer import BOS, EOS, PAD

SLOW = [HealthCheck.too_slow]  # a busy machine is no bug


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def evening():
    return Gazette.load()


def fresh(gazette, n, seed=0):
    return gazette.canvas(gazette.sample(n, chance(seed)))


PAPER = {
    "edition": "test",
    "paper": "The Test",
    "tables": {
        "one": {
            "columns": ["a", "b"],
            "rows": [["Ada", "red"], ["Marlow", "two"], ["Ashby", "red"]],
            "weights": [5, 3, 2],
        },
        "two": {"columns": ["a"], "rows": [["goose"], ["piano"]]},
    },
    "frames": {
        "f": {
            "weight": 3,
            "draws": {"x": "one", "y": "two", "z": "two"},
            "slots": [["{x.a} {y.a} the {x.b} {z.a}."]],
        },
        "g": {"weight": 1, "draws": {"y": "two"}, "slots": [["On {y.a} the {y.a}."]]},
    },
}


# -- choices -------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None, suppress_health_check=SLOW)
@given(raw=brute.grammars())
def test_choices_write_the_document_again(press, raw):
    gazette, every = press(raw)
    template, rows = gazette.choices(every.ids)
    t = gazette._templates
    assert torch.equal(t.write(template, rows), every.ids)
    assert rows.shape == (len(every.ids), len(t.draw_weights))
    assert (t.draw_weights.gather(1, rows.T) > 0)[t.draw_template[:, None] == template].all()
    # Where several templates write one text, the likelier.
    for n, row in enumerate(every.ids):
        same = (every.ids == row).all(1)
        mass = torch.zeros(int(every.template.max()) + 1, dtype=torch.float64)
        mass.index_add_(0, every.template[same], every.p[same])
        assert mass[template[n]] >= mass.max() - 1e-12


@pytest.mark.parametrize("edition", ["small", "sunday"])
def test_choices_are_those_that_were_made(edition):
    gazette = Gazette.load(edition)
    ids, template, rows = gazette._templates.draw(300, chance(2))
    found, found_rows = gazette.choices(ids)
    assert torch.equal(found, template)
    mine = gazette._templates.draw_template == template[:, None]
    assert torch.equal(found_rows[mine], rows[mine]) and mine.sum() > 300
    shorter = gazette.sample(3, chance(5))
    one = gazette.choices(shorter[0][None])  # a row need not be padded
    assert torch.equal(one[0], gazette.choices(gazette.canvas(shorter))[0][:1])


def test_choices_of_what_is_no_document(evening):
    ids = fresh(evening, 4)
    ids[2, 3] = ids[2, 1]
    with pytest.raises(ValueError, match="row 2 is no document"):
        evening.choices(ids)


# -- groups --------------------------------------------------------------------------------------


def test_groups_by_hand(press):
    gazette, every = press(PAPER)
    ids = every.ids[every.template == 0][:1]  # <bos> x y the x z . <eos>
    assert gazette.length == 8
    shown = torch.zeros_like(ids).bool()
    assert gazette.groups(ids, shown).tolist() == [[0] * 8]  # which template is open
    shown[0, 4] = True  # "red" or "two": only the first frame says it there
    assert gazette.groups(ids, shown).tolist() == [[-1, 0, 1, -1, 0, 2, -1, -1]]
    # Also beyond the canvas, and in a row that is shorter.
    wide = torch.nn.functional.pad(ids, (0, 2))
    seen = torch.nn.functional.pad(shown, (0, 2))
    assert gazette.groups(wide, seen).tolist() == [[-1, 0, 1, -1, 0, 2, -1, -1, -1, -1]]
    assert gazette.groups(ids[:, :5], shown[:, :5]).tolist() == [[-1, 0, 1, -1, 0]]
    other = every.ids[every.template == 1][:1]  # <bos> On y the y . <eos> <pad>
    everything = torch.ones_like(other).bool()
    assert gazette.groups(other, everything).tolist() == [[-1, -1, 0, -1, 0, -1, -1, -1]]
    nonsense = torch.full_like(ids, int(ids[0, 1]))  # nothing fits
    assert gazette.groups(nonsense, everything).tolist() == [[0] * 8]
    both = gazette.groups(torch.cat([ids, other]), torch.cat([shown, everything]))
    assert both[:, 1].tolist() == [0, -1]


@settings(max_examples=25, deadline=None, suppress_health_check=SLOW)
@given(brute.grammars(), st.integers(0, 999))
def test_words_of_different_groups_are_independent(press, raw, seed):
    gazette, every = press(raw)
    noise = chance(seed)
    for row in every.ids[torch.randint(len(every.ids), (3,), generator=noise)]:
        shown = torch.rand(len(row), generator=noise) < 0.5
        group = gazette.groups(row[None], shown[None])[0]
        p = every.weights(row, shown)
        p = p / p.sum()
        open_ = (~shown).nonzero()[:, 0].tolist()
        templates = every.template[p > 0].unique()
        if len(templates) > 1:
            assert not group.any()
            continue
        for i in open_:
            if group[i] == -1:
                assert len(every.ids[p > 0, i].unique()) == 1
            for j in open_:
                if group[i] == group[j]:
                    continue
                for a in every.ids[p > 0, i].unique():
                    for b in every.ids[p > 0, j].unique():
                        first, second = every.ids[:, i] == a, every.ids[:, j] == b
                        joint = p[first & second].sum()
                        assert abs(joint - p[first].sum() * p[second].sum()) < 1e-9


# -- quality -------------------------------------------------------------------------------------


def test_fresh_documents_are_as_good_as_fresh_documents(evening):
    found = quality(evening, fresh(evening, 800, 3))
    assert found.valid == (1, 1, 1) and found.entropy == evening.entropy
    assert found.surprise.low < found.entropy < found.surprise.high
    assert abs(found.diversity - 1) < 0.03
    assert found.diversity == found.surprise.mean / evening.entropy
    assert abs(found.distinct - found.fresh_distinct) < 0.02 and found.distinct > 0.9


def test_each_measure_by_hand(evening):
    ids = fresh(evening, 6, 3)
    ids = ids[[0, 0, 0, 1, 2, 3]]
    ids[4:, 3] = ids[4:, 1]  # two are broken
    log_p = evening.log_prob(ids)
    found = quality(evening, ids, seed=4)
    assert found.valid == bootstrap(torch.tensor([1.0, 1, 1, 1, 0, 0]), seed=4)
    assert found.surprise == bootstrap(-log_p[:4], seed=4)
    assert found.distinct == pytest.approx(4 / 6)
    others = fresh(evening, 6, 4)
    assert found.fresh_distinct == distinct(others)
    many = quality(evening, fresh(evening, 1, 1).expand(300, -1), seed=2)
    assert many.valid.mean == 1 and many.distinct == pytest.approx(1 / 300)
    assert many.fresh_distinct == distinct(fresh(evening, 300, 2)) > 0.9
    for broken in (3, 2):
        few = ids[6 - broken - 1 :] if broken == 2 else ids[4:].repeat(2, 1)
        none = quality(evening, few)
        assert none.surprise is None and math.isnan(none.diversity)
    with pytest.raises(ValueError, match="at least two values"):
        quality(evening, ids[:1])


def test_likely_documents_are_less_various(evening):
    ids = fresh(evening, 600, 3)
    likely = ids[evening.log_prob(ids).topk(200).indices]
    found = quality(evening, likely)
    assert found.valid.mean == 1 and found.diversity < 0.95
    assert found.surprise.high < found.entropy


def test_distinct_by_hand():
    ids = torch.tensor([[1, 2, 3], [1, 2, 3], [3, 2, 1], [1, 2, 4]])
    assert distinct(ids) == 0.75 and distinct(ids[:2]) == 0.5 and distinct(ids[:1]) == 1


# -- fit to the grammar --------------------------------------------------------------------------


def test_fresh_documents_pass(evening):
    smallest, raw = [], []
    for seed in range(8):
        fits = fit_to_grammar(evening, fresh(evening, 1500, seed))
        assert [f.p for f in fits] == sorted(f.p for f in fits) and len(fits) > 10
        assert any(f.name == "template" for f in fits)
        smallest.append(fits[0].p_holm)
        raw += [f.p for f in fits]
    assert sum(p < 0.05 for p in smallest) <= 2  # one in twenty is told by mistake
    raw = torch.tensor(raw)  # and the p of true hypotheses are uniform
    for level in (0.05, 0.25, 0.5, 0.75):
        share = (raw < level).double().mean()
        assert abs(share - level) < 5 * (level * (1 - level) / len(raw)) ** 0.5, level


def changed(gazette, change):
    """1500 documents of a grammar that is not quite this one."""
    templates = copy.deepcopy(gazette._templates)
    change(templates)
    return templates.draw(1500, chance(5))[0]


def cooler(templates):
    for name in ("prior", "draw_weights"):
        weights = getattr(templates, name) ** (1 / 0.5)
        setattr(templates, name, weights / weights.sum(-1, keepdim=True))


def test_other_documents_are_told(evening):
    assert fit_to_grammar(evening, changed(evening, lambda t: None))[0].p_holm > 0.05
    assert fit_to_grammar(evening, changed(evening, cooler))[0].p_holm < 0.001
    repeated = fresh(evening, 50).repeat(30, 1)
    assert fit_to_grammar(evening, repeated)[0].p_holm < 1e-6


def test_the_choice_that_is_off_is_named(evening):
    def templates_off(templates):
        templates.prior = templates.prior.flip(0)

    fits = fit_to_grammar(evening, changed(evening, templates_off))
    assert fits[0].name == "template" and fits[0].p_holm < 1e-9
    t = evening._templates
    draw = int(
        torch.where((t.draw_weights > 0.02).sum(-1) > 3, t.prior[t.draw_template], 0).argmax()
    )

    def one_draw_off(templates):
        size = int((t.draw_weights[draw] > 0).sum())
        templates.draw_weights[draw, :size] = torch.arange(1.0, size + 1).double() ** 2
        templates.draw_weights[draw] /= templates.draw_weights[draw].sum()

    fits = fit_to_grammar(evening, changed(evening, one_draw_off))
    assert fits[0].name == f"template {int(t.draw_template[draw])}, draw {draw}"
    assert fits[0].p_holm < 1e-4 and fits[1].p_holm > 0.05


def test_every_choice_of_a_small_grammar_is_tested(press):
    gazette, _ = press(PAPER)
    ids = fresh(gazette, 400)
    fits = {f.name: f for f in fit_to_grammar(gazette, ids)}
    assert fits.keys() == {"template"} | {
        f"template {k}, draw {d}" for k, d in ((0, 0), (0, 1), (0, 2), (1, 3))
    }
    template, rows = gazette.choices(ids)
    seen = rows[template == 0, 0].bincount(minlength=3).double()
    expected = seen.sum() * torch.tensor([0.5, 0.3, 0.2])
    one = fits["template 0, draw 0"]
    assert one.cells == 3
    assert one.statistic == pytest.approx(float(((seen - expected) ** 2 / expected).sum()))
    assert one.p == pytest.approx(math.exp(-one.statistic / 2))  # two degrees of freedom
    share = fits["template"]
    off = float((template == 0).sum()) - 300
    assert share.statistic == pytest.approx(off**2 / 300 + off**2 / 100)
    assert share.p == pytest.approx(math.erfc(math.sqrt(share.statistic / 2)))  # and one
    # Too few documents leave one cell, and nothing to test there.
    few = fit_to_grammar(gazette, ids[template == 0][:7])
    assert {f.name for f in few} == set()
    few = fit_to_grammar(gazette, ids[template == 0][:12])
    assert {f.name for f in few} == {
        "template 0, draw 0",
        *(f"template 0, draw {d}" for d in (1, 2)),
    }
    fewer = fit_to_grammar(gazette, ids[template == 0][:12], least=6.5)
    assert len(fewer) == 0
    broken = ids.clone()
    broken[7, 2] = broken[7, 1]
    with pytest.raises(ValueError, match="row 7 is no document"):
        fit_to_grammar(gazette, broken)


def test_holm_by_hand(press, monkeypatch):
    gazette, _ = press(PAPER)
    answers = iter([(2, 1.0, 0.03), None, (4, 2.0, 0.01), (3, 3.0, 0.04), (2, 4.0, 0.8)])
    monkeypatch.setattr(judged, "_chi_square", lambda *_: next(answers))
    fits = fit_to_grammar(gazette, fresh(gazette, 20))
    assert [f.p for f in fits] == [0.01, 0.03, 0.04, 0.8]
    # 4 * 0.01; 3 * 0.03; not 2 * 0.04, which is less than what stands before it; 1 * 0.8
    assert [f.p_holm for f in fits] == pytest.approx([0.04, 0.09, 0.09, 0.8])
    assert [(f.name, f.cells) for f in fits][:2] == [("template 0, draw 1", 4), ("template", 2)]
    answers = iter([(2, 1.0, 0.5)] * 5)
    assert [f.p_holm for f in fit_to_grammar(gazette, fresh(gazette, 20))] == [1.0] * 5


@pytest.mark.parametrize(
    ("cells", "statistic", "p"),
    [  # from the printed tables
        (2, 3.841, 0.05),
        (2, 6.635, 0.01),
        (3, 5.991, 0.05),
        (3, 9.210, 0.01),
        (6, 11.070, 0.05),
        (11, 18.307, 0.05),
        (11, 29.588, 0.001),
        (31, 43.773, 0.05),
    ],
)
def test_p_of_the_printed_tables(cells, statistic, p):
    off = (statistic * 50) ** 0.5  # two cells are off by so much: 2 off^2 / 100
    seen = torch.full((cells,), 100.0, dtype=torch.float64)
    seen[0], seen[1] = 100 + off, 100 - off
    found = judged._chi_square(seen, torch.full_like(seen, 100), 5.0)
    assert found[0] == cells and found[1] == pytest.approx(statistic)
    assert found[2] == pytest.approx(p, rel=2e-3)


@pytest.mark.parametrize(
    ("seen", "expected", "pooled"),
    [
        ([10, 20], [12, 18], [(10, 12), (20, 18)]),
        ([1, 2, 9, 30], [2, 4, 8, 28], [(3, 6), (9, 8), (30, 28)]),
        ([30, 9, 2, 1], [28, 8, 4, 2], [(3, 6), (9, 8), (30, 28)]),
        ([0, 0, 1, 2, 39], [0, 0, 2, 2, 38], [(3, 4 + 38)][:0]),  # pooled into one cell
        ([1, 1, 1, 20, 21], [1, 1, 2, 20, 20], [(3 + 20, 4 + 20), (21, 20)]),
        ([6, 5, 0, 0], [5, 6, 0, 0], [(6, 5), (5, 6)]),
        ([3, 4, 5], [4, 4, 4], [(7 + 5, 12)][:0]),  # a rest that expects too few joins the last
        ([5, 6], [5, 6], [(5, 5), (6, 6)]),
    ],
    ids=str,
)
def test_pooling_by_hand(seen, expected, pooled):
    found = judged._chi_square(torch.tensor(seen).double(), torch.tensor(expected).double(), 5.0)
    if not pooled:
        assert found is None
        return
    cells, statistic, p = found
    assert cells == len(pooled) and 0 <= p <= 1
    assert statistic == pytest.approx(sum((s - e) ** 2 / e for s, e in pooled))


def test_documents_longer_than_the_canvas(press):
    gazette, _ = press(PAPER)
    ids = torch.nn.functional.pad(fresh(gazette, 50), (0, 3), value=PAD)
    assert quality(gazette, ids).valid.mean == 1
    assert fit_to_grammar(gazette, ids) == fit_to_grammar(gazette, ids[:, :-3])
    ids[0, 1:3] = torch.tensor([EOS, BOS])
    assert quality(gazette, ids).valid.mean == pytest.approx(0.98)


def test_cells_are_pooled_from_the_smallest_whatever_their_order():
    seen = torch.tensor([1.0, 22, 5, 19])
    cells, statistic, _ = judged._chi_square(seen, torch.tensor([2.0, 20, 3, 20]), 5.0)
    assert cells == 3 and statistic == pytest.approx(1 / 5 + 4 / 20 + 1 / 20)


def test_two_valid_pages_are_enough_for_a_mean():
    gazette = Gazette.load("sunday")
    pages = gazette.canvas(gazette.sample(200, torch.Generator().manual_seed(0)))
    log_p = gazette.log_prob(pages)
    found = quality(gazette, pages)
    assert found.valid.mean == 1
    assert found.surprise.mean == pytest.approx(float(-log_p.mean()))
    two = torch.cat([pages[:2], torch.zeros_like(pages[:3])])
    assert quality(gazette, two).surprise.mean == pytest.approx(float(-log_p[:2].mean()))
    assert quality(gazette, two[1:]).surprise is None


def test_the_seed_draws_the_fresh_pages():
    gazette = Gazette.load()
    pages = gazette.canvas(gazette.sample(2000, torch.Generator().manual_seed(99)))
    found, wanted = [], []
    for seed in range(4):
        fresh = gazette.canvas(gazette.sample(2000, torch.Generator().manual_seed(seed)))
        found.append(quality(gazette, pages, seed).fresh_distinct)
        wanted.append(distinct(fresh))
    assert found == wanted and len(set(wanted)) > 1
