"""Exercises of chapter 12: the stub is refused, the solution passes, wrong answers are named."""

import math
from dataclasses import replace

import pytest
import tables
import torch
from exercise_cells import cell

from mylib.exercises import NotSolved, capstone, chapter12, writers
from mylib.exercises.chapter12 import EndingFirst, Note, Regime
from mylib.experiments import capstone as reporting
from mylib.files import data_path
from mylib.leaks import certificate, positions_tell
from mylib.masks import Mask, bidirectional, causal_head, dense, sliding_window
from mylib.metrics import Interval
from mylib.objectives import (
    AbsorbingDiffusion,
    ForwardBackward,
    MaskedLM,
    NextToken,
    PrefixLM,
    PreviousToken,
)
from mylib.quality import Quality

NOTEBOOK = "12-your-own-regime.ipynb"
CHECKS = {
    1: ("verdict", chapter12.check_verdict),
    2: ("design", chapter12.check_capstone),
    3: ("note", chapter12.check_note),
}


def chance(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def context():
    names = cell(NOTEBOOK, "fence-and-draws-by-hand", dense=dense, chance=chance)
    return dict(
        certificate=certificate,
        crosses=names["crosses"],
        positions_tell=positions_tell,
        Regime=Regime,
        PreviousToken=PreviousToken,
        Note=Note,
        runs=chapter12.runs,
    )


def solution(number, context):
    name = CHECKS[number][0]
    source = cell(NOTEBOOK, f"exercise-{number}-solution", **context)
    return source[f"{name}_solution"]


def test_stubs_are_refused():
    for number, (name, check) in CHECKS.items():
        with pytest.raises(NotSolved, match="write your answer"):
            check(cell(NOTEBOOK, f"exercise-{number}-stub")[name])


# -- 12.1 --------------------------------------------------------------------------------------


def judge(*, layers=None, positions=True, packing=True, decoding=True, odd=False, masks=False):
    """The right verdict, with one mistake."""

    def verdict(proposal):
        leaks = certificate(proposal.objective, proposal.rows, layers or proposal.layers).leaks
        if leaks:
            return leaks[0].path
        (batch,) = proposal.objective.passes(proposal.rows, chance(0))
        seen = dense(batch.mask, batch.inputs.shape[1], batch=len(batch.inputs))[:, 0]
        if masks and seen.triu(1)[batch.asked].any() and seen.tril(-1)[batch.asked].any():
            return "packing"
        if odd and proposal.name.startswith("inside"):
            return "positions"
        if positions and positions_tell(proposal.objective):
            return "positions"
        story = proposal.rows.document.gather(1, batch.shown.clamp(min=0))
        other = (story[:, :, None] != story[:, None, :]) & (batch.shown >= 0)[:, None, :]
        if packing and (seen & other)[batch.asked].any():
            return "packing"
        return "decoding" if decoding and proposal.together > 1 else None

    return verdict


def test_the_solutions_of_the_desk_pass(capsys, context):
    chapter12.check_verdict(solution(1, context))
    chapter12.check_verdict(judge())
    assert capsys.readouterr().out.count("solved") == 2


@pytest.mark.parametrize(
    ("verdict", "line"),
    [
        (judge(layers=1), "You judge by one layer only"),
        (judge(layers=2), "three strides.* at its own depth"),
        (judge(positions=False), "you forget the positions"),
        (judge(packing=False), "you forget packing"),
        (judge(decoding=False), "you forget decoding"),
        (judge(odd=True), "It looks odd"),
        (judge(masks=True), "you refuse a sound proposal"),
        (
            lambda p: "positions" if p.name == "one line" else judge()(p),
            "the reason is not 'positions'",
        ),
        (lambda p: None, "you accept everything"),
        (lambda p: (0, 1, 1), "is no path of a leak"),
        (lambda p: (0, 2, 1), "no hidden answer reaches"),
        (lambda p: True, "answer None, a path"),
        (lambda p: 1 / 0, "stopped with ZeroDivisionError"),
    ],
)
def test_wrong_verdicts_are_named(verdict, line):
    if line == "is no path of a leak":  # the check asks the first proposal first
        right = judge()
        wrong = verdict
        verdict = lambda p: wrong(p) if p.name == "leapfrog" else right(p)  # noqa: E731
    with pytest.raises(NotSolved, match=line):
        chapter12.check_verdict(verdict)


def test_the_proposals_are_what_they_are_said_to_be():
    desk = {p.name: p for p in (*chapter12.DESK, *chapter12.LATE)}

    def sound(name, layers=None):
        p = desk[name]
        return certificate(p.objective, p.rows, layers or p.layers).sound

    assert sound("leapfrog", 1) and not sound("leapfrog")
    assert sound("three strides", 2) and not sound("three strides")
    assert all(sound(name) for name in desk if name not in ("leapfrog", "three strides"))
    tell = {name for name, p in desk.items() if positions_tell(p.objective)}
    assert tell == {"inside out, again", "reversed", "three strides"}  # the last leaks before
    assert {name for name, p in desk.items() if p.rows.is_packed} == {"one line", "fenced"}


def test_the_ending_stands_first_and_the_rest_is_asked():
    rows = chapter12.DESK[0].objective.alone([torch.arange(10, 20)], 10)
    for where in ("row", "page"):
        (batch,) = EndingFirst(where, kept=3).passes(rows, chance(0))
        assert batch.inputs[0].tolist() == [17, 18, 19, *range(10, 17)]
        assert batch.targets.tolist() == [*range(11, 17), writers.EOS]
        assert batch.source.tolist() == [1, 2, 3, 4, 5, 6, -1]
        assert batch.asked[0].tolist() == [False] * 3 + [True] * 7
        order = [*range(10)] if where == "row" else [7, 8, 9, *range(7)]
        assert batch.positions[0].tolist() == order
    leaky = certificate(_Open(), rows, layers=1)
    assert len(leaky.leaks) == 4  # all but the stop of what was asked


class _Open(EndingFirst):
    def passes(self, rows, generator):
        (batch,) = super().passes(rows, generator)
        return (replace(batch, mask=bidirectional),)


# -- 12.2 --------------------------------------------------------------------------------------


class Shifted(PreviousToken):
    """Counts positions from 1."""

    def passes(self, rows, generator):
        (batch,) = super().passes(rows, generator)
        return (replace(batch, positions=batch.positions + 1),)


class EndingOpen(PreviousToken):
    """The words of the ending see each other, and only what stands before them is asked."""

    def passes(self, rows, generator):
        (batch,) = super().passes(rows, generator)
        given = (batch.positions < capstone.KEPT) & (batch.shown >= 0)
        asked = batch.asked & (batch.positions >= capstone.KEPT - 1)
        kept = asked[batch.asked]
        mask = batch.mask | Mask(lambda b, h, q, k, g: g[b, q] & g[b, k], "ending", given)
        parts = {name: getattr(batch, name)[kept] for name in ("targets", "source", "weights")}
        copied, size = batch.copied[kept], float(kept.sum())
        return (replace(batch, mask=mask, asked=asked, copied=copied, denominator=size, **parts),)


@pytest.mark.parametrize(
    "regime",
    [
        Regime("a", PreviousToken(), "backward", {"top_k": 3}),
        Regime("b", NextToken(), "forward"),
        Regime("c", EndingFirst(), "inside out"),
        Regime("d", ForwardBackward(direction_tokens=False), "backward"),
        Regime("e", EndingOpen(), "backward", {"open_prompt": True}),
        Regime("f", PreviousToken(mask=sliding_window(0, 40)), "backward"),
    ],
)
def test_what_fits_is_not_refused(regime):
    pages = capstone.evening().sample(4, chance(0))
    assert writers.misfit(regime, pages, capstone.ROOM) == "" == writers.wrong_settings(regime)


def test_a_mask_is_known_by_what_it_does_and_not_by_its_name():
    def named(rule):
        return PreviousToken(mask=Mask(rule, "mine"))

    def net(objective):
        return capstone.trained(objective, steps=1)

    wide, narrow = (
        named(lambda b, h, q, k: k >= q),
        named(lambda b, h, q, k: (k >= q) & (k < q + 2)),
    )
    assert repr(wide) == repr(narrow)
    assert net(wide) is not net(narrow)
    assert net(wide) is net(named(lambda b, h, q, k: k >= q))
    assert net(Shifted()) is not net(PreviousToken())
    assert net(ForwardBackward(0.5)) is not net(ForwardBackward(1.0))


def scored(valid=0.95, low=0.92, kept=1.0, distinct=0.99, diversity=1.0, passes=27):
    surprise = Interval(17.3 * diversity, 17.0, 17.6)
    found = Quality(Interval(valid, low, 1.0), surprise, 17.3, distinct, 1.0)
    return capstone.Score(Interval(valid, low, 1.0), kept, found, passes)


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (scored(distinct=0.3), "a gain from repetition is none"),
        (scored(low=0.80), "does not lie above the score"),
        (scored(kept=0.1), "who heeds the ending"),
        (scored(diversity=0.7), "leave out the rare ones"),
        (scored(passes=31), "27 are allowed"),
        (scored(kept=0.0, passes=31), "who heeds the ending"),
    ],
)
def test_weak_scores_are_refused(found, line):
    capstone.judge(scored())
    with pytest.raises(NotSolved, match=line):
        capstone.judge(found)


@pytest.mark.parametrize(
    ("regime", "line"),
    [
        (Regime("a", PreviousToken(mask=bidirectional), "backward"), "a leak in the objective"),
        (Regime("b", NextToken(causal_head(4)), "forward"), "a leak in the objective"),
        (Regime("k", MaskedLM(split=(0, 0, 1)), "backward"), "declares its answers to be copies"),
        (Regime("c", AbsorbingDiffusion(), "sheet"), "told for free: the sheet"),
        (Regime("d", PreviousToken("start"), "backward"), "told for free: in training"),
        (Regime("e", MaskedLM(), "backward"), "told for free: in training"),
        (Regime("f", PreviousToken(), "oracle"), "writer is one of"),
        (PreviousToken(), "return a Regime"),
        (Regime("g", PreviousToken(), "forward"), "left to right takes outputs that name the next"),
        (Regime("h", NextToken(), "backward"), "right to left takes outputs that name the word be"),
        (Regime("i", PrefixLM(5), "backward"), "right to left takes outputs that name the word be"),
        (Regime("j", EndingFirst(), "backward"), "takes outputs that name the word before"),
        (Regime("l", AbsorbingDiffusion(), "backward"), "takes outputs that name the word before"),
        (Regime("m", NextToken(), "inside out"), "read from '<bos> .* this writer begins"),
        (Regime("n", EndingFirst(), "forward"), "this writer begins with '<bos>'"),
        (Regime("o", EndingFirst(kept=4), "inside out"), "missing in writing"),
        (Regime("p", ForwardBackward(1.0), "backward"), "'<bw>.* '<eos>.* the direction token is"),
        (Regime("q", PreviousToken(mask=sliding_window(0, 4)), "backward"), "not the one that the"),
        (Regime("r", PreviousToken(), "backward", {"open_prompt": True}), "the given ones at each"),
        (Regime("s", Shifted(), "backward"), "the writer counts positions 0, 1, 2"),
        (
            Regime("t", PreviousToken(), "backward", {"temp": 1}),
            "no 'temp'; it takes .*'temperature",
        ),
        (Regime("u", EndingFirst(), "inside out", {"order": "left"}), "has no 'order'"),
    ],
)
def test_bad_designs_are_refused_before_they_are_trained(regime, line, monkeypatch):
    def trained(objective):
        raise AssertionError("it was trained")

    monkeypatch.setattr(capstone, "trained", trained)
    with pytest.raises(NotSolved, match=line):
        capstone.check_capstone(lambda: regime)


def test_the_capstone_is_trained_and_judged(capsys, context):
    """The one test here that trains: a network of 2 layers, 400 steps."""
    design = solution(2, context)
    capstone.check_capstone(design)
    assert "solved" in capsys.readouterr().out
    greedy = replace(design(), settings={"temperature": 0})
    with pytest.raises(NotSolved, match="a gain from repetition"):
        capstone.check_capstone(lambda: greedy)
    with pytest.raises(NotSolved, match="does not lie above the score"):
        capstone.check_capstone(lambda: replace(design(), settings={"temperature": 1.3}))


def test_inside_out_is_trained_and_judged(capsys):
    """A network of its own: 2 layers, 400 steps."""
    capstone.check_capstone(
        lambda: Regime("inside out", EndingFirst(), "inside out", {"temperature": 0.5})
    )
    assert "solved" in capsys.readouterr().out


def test_inside_out_puts_the_ending_back(monkeypatch):
    def oracle(model, prompts, new, generator):  # all but the first page find their end
        pages = {tuple(p[-5:].tolist()): p for p in burnt}
        rows = []
        for n, prompt in enumerate(prompts):
            assert len(prompt) == 6 and prompt[5] == 1 and new == 27
            middle = pages[tuple(prompt[:5].tolist())][1:-5]
            middle = torch.full((new,), 40) if n == 0 else torch.cat([middle, torch.tensor([2])])
            rows.append(torch.cat([prompt, middle]))
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return capstone.Trace(ids, (), ids, ids, torch.full((len(ids),), new))

    burnt = capstone.evening().sample(6, chance(4))
    monkeypatch.setattr(writers, "generate", oracle)
    regime = Regime("x", EndingFirst(), "inside out")
    monkeypatch.setattr(writers, "wrong_settings", lambda regime: "")
    ids = writers.compose(regime, None, burnt, 0).ids
    assert torch.equal(ids[1:], capstone.evening().canvas(burnt)[1:])
    assert capstone.ends_as(burnt, ids).tolist() == [False] + [True] * 5


def test_settings_are_those_of_the_writer():
    for writer in ("forward", "backward", "inside out"):
        assert {"temperature", "top_k", "top_p"} <= set(writers.settings_of(writer))
    assert {"order", "budget", "temperature"} <= set(writers.settings_of("sheet"))
    assert not {"model", "canvas", "generator"} & set(writers.settings_of("sheet"))
    with pytest.raises(ValueError, match="has no 'budget'"):
        writers.compose(Regime("x", NextToken(), "forward", {"budget": 1}), None, [], 0)


def test_pages_keep_what_they_were_given():
    config = capstone.GPTConfig(capstone.evening().vocab_size, 64, n_embd=16, n_layer=1, n_head=2)
    model = capstone.GPT.init(config, chance(0))
    pages = capstone.burnt(3)[:8]
    assert torch.equal(pages[0], pages[capstone.EACH - 1])
    assert len(capstone.burnt(3)) == capstone.ENDINGS * capstone.EACH
    for objective, writer in ((PreviousToken(), "backward"), (AbsorbingDiffusion(), "sheet")):
        ids = writers.compose(Regime("x", objective, writer), model, pages, 0).ids
        assert ids.shape == (8, capstone.evening().length)
        if writer == "sheet":  # as many tokens as the burnt page had
            ends = [ids[n, len(p) - capstone.KEPT : len(p)] for n, p in enumerate(pages)]
            assert all(
                torch.equal(e, p[-capstone.KEPT :]) for e, p in zip(ends, pages, strict=True)
            )
            before = [
                ids[n, len(p) - capstone.KEPT - 1] == p[-capstone.KEPT - 1]
                for n, p in enumerate(pages)
            ]
            assert not all(before)  # no more than the ending is given
    wrong = writers.compose(Regime("x", NextToken(), "forward"), model, pages, 0)
    assert not capstone.ends_as(pages, wrong.ids).any()
    assert capstone.ends_as(pages, capstone.evening().canvas(pages)).all()
    with pytest.raises(ValueError, match="writer is one of"):
        writers.compose(Regime("x", NextToken(), "press"), model, pages, 0)


# -- 12.3 --------------------------------------------------------------------------------------

RUNS = chapter12.runs()


def note(**changes):
    right = [run for run in RUNS if run.mask == "right"]
    fields = dict(
        claim="The published mask pays two nats less than the floor.",
        holds=lambda run: run.high < -2,
        control=right,
        seeds=(1, 2),
        interval=(-4.99, -4.11),
        threshold=-2.0,
        tuned_on=(0,),
    )
    return lambda: Note(**(fields | changes))


def test_the_notes_pass(capsys, context):
    chapter12.check_note(note())
    chapter12.check_note(solution(3, context))
    assert capsys.readouterr().out.count("solved") == 2


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (note(holds=lambda run: True), "a control that cannot fail"),
        (note(control=[r for r in RUNS if r.mask == "published"]), "a control that cannot fail"),
        (note(control=[]), "there is no control"),
        (note(seeds=(1,)), "one seed"),
        (note(seeds=(1, 1)), "one seed"),
        (note(seeds=(7, 8)), "not in the table"),
        (note(tuned_on=(0, 1, 2)), "tuned on what it judges"),
        (note(tuned_on=()), "nothing says on what the threshold was chosen"),
        (note(threshold=2.0), "threshold is not that of your rule.* no just below and no just"),
        (note(threshold=-3.0), "threshold is not that of your rule.* yes just below and yes just"),
        (note(holds=lambda run: run.mask == "published"), "your rule reads run.mask"),
        (note(holds=lambda r: r.mask == "published" and r.high < -2), "your rule reads run.mask"),
        (note(control=[r for r in chapter12.runs("4x48") if r.mask == "right"]), "another size"),
        (note(interval=(-4.34, -4.99)), "low before high"),
        (note(claim=2), "a sentence, not 2"),
        (note(interval=None), "there is no interval"),
        (note(interval=(-4.5, -4.45)), "does not hold the intervals"),
        (note(interval=(-5.0, -1.0)), "crosses the value that is claimed"),
        (note(holds=lambda run: run.mean < -2), "looks at the mean alone"),
        (note(holds=lambda run: run.high < -4.5, threshold=-4.5), "does not hold for all"),
        (note(claim="It leaks"), "is a sentence"),
        (lambda: 3, "return a Note"),
    ],
)
def test_wrong_notes_are_named(answer, line):
    with pytest.raises(NotSolved, match=line):
        chapter12.check_note(answer)


def test_a_control_that_holds_does_not_fail():
    def generous(run):
        return run.high < 2

    with pytest.raises(NotSolved, match="the control does not fail"):
        chapter12.check_note(note(holds=generous, threshold=2.0))


def test_the_runs_are_those_of_the_committed_table():
    assert {(run.mask, run.seed) for run in RUNS} >= {
        (mask, seed) for mask in ("right", "published") for seed in range(3)
    }
    assert all(run.low < run.mean < run.high for run in RUNS)
    assert len(chapter12.runs("6x64")) == len(RUNS)


def test_the_score_is_the_reporter_s_best_rounded_up():
    rows, _ = tables.read(data_path("results/capstone.csv"))
    assert len(rows) == 9 and str(capstone.JUDGED) not in {row["endings"] for row in rows}
    assert math.ceil(100 * max(float(row["valid"]) for row in rows)) / 100 == capstone.SCORE


def test_the_score_can_be_measured_again(tmp_path, monkeypatch):
    real = capstone.trained
    monkeypatch.setattr(reporting, "trained", lambda objective, seed: real(objective, seed, 2))
    monkeypatch.setattr(reporting, "burnt", lambda seed: capstone.burnt(seed)[:8])
    for _ in range(2):  # a second run adds nothing
        reporting.main(["--seeds", "0", "--endings", "3", "--out", str(tmp_path / "c.csv")])
    rows, facts = tables.read(tmp_path / "c.csv")
    assert [row["endings"] for row in rows] == ["3"] and "capstone" in facts["command"]
