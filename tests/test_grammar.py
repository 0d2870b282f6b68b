"""A mistake in a grammar file is refused with the file, the frame or table, and the key."""

import copy
import math
import re
import tomllib
from unittest import mock

import brute
import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from mylib import grammar
from mylib.grammar import Cell, GrammarError, Question, Table, load_grammar

GOOD = {
    "edition": "test",
    "paper": "The Test",
    "tables": {
        "person": {
            "columns": ["name", "She"],
            "rows": [["Ada", "She"], ["Otto", "He"], ["Marlow", "He"]],
            "weights": [2, 1, 1],
            "tags": {"name": "B-PER"},
        },
        "thing": {"columns": ["name"], "rows": [["bell"], ["goose"]]},
    },
    "frames": {
        "lost": {
            "weight": 3,
            "draws": {"x": "person", "item": "thing"},
            "slots": [
                [
                    {"text": "{x.name} lost a {item.name}.", "weight": 2, "side": "left"},
                    "A {item.name} is lost, says {x.name}.",
                ],
                ["{x.She} can't sleep.", {"text": "Help {x.name}!"}],
            ],
            "questions": [{"ask": "Who lost the {item.name}?", "answer": "x.name"}],
        },
        "plain": {"weight": 1, "slots": [["Every effort moves you forward."]]},
    },
}


@pytest.fixture
def load(tmp_path):
    def load(raw):
        path = tmp_path / "paper.toml"
        path.write_text(raw if isinstance(raw, str) else brute.toml(raw), encoding="utf-8")
        return load_grammar(path)

    return load


def changed(path, new):
    """GOOD with one place changed; `...` takes the key out."""
    raw = copy.deepcopy(GOOD)
    *above, last = path
    place = raw
    for key in above:
        place = place[key]
    if new is ...:
        del place[last]
    else:
        place[last] = new
    return raw


def test_a_good_grammar(load):
    read = load(GOOD)
    assert (read.edition, read.paper) == ("test", "The Test")
    assert read.tables["person"] == Table(
        ("name", "She"),
        (("Ada", "She"), ("Otto", "He"), ("Marlow", "He")),
        (0.5, 0.25, 0.25),
        {"name": "B-PER"},
    )
    assert [t.frame for t in read.templates] == ["lost"] * 4 + ["plain"]
    priors = [0.75 * 2 / 3 / 2] * 2 + [0.75 / 3 / 2] * 2 + [0.25]
    assert [t.prior for t in read.templates] == pytest.approx(priors, abs=1e-15)
    assert [t.side for t in read.templates] == ["left", "left", None, None, None]
    first = read.templates[0]
    name, item = Cell(draw="x", column="name"), Cell(draw="item", column="name")
    fixed = [Cell(word=w) for w in (" lost", " a", ".", " can", "'t", " sleep", ".")]
    she = Cell(draw="x", column="She")
    assert first.cells == (name, *fixed[:2], item, fixed[2], she, *fixed[3:])
    asked = (*(Cell(word=w) for w in (" Who", " lost", " the")), item, Cell(word="?"))
    assert first.questions == (Question(asked, name),)
    assert read.choices(first, she) == (" She", " He", " He")
    assert " Who" in read.units() and "'t" in read.units() and " goose" in read.units()


@given(brute.grammars())
@settings(max_examples=60, deadline=None)
def test_templates_add_up(raw):
    with mock.patch.object(tomllib, "loads", lambda text: raw):
        read = load_grammar(__file__)
    assert math.fsum(t.prior for t in read.templates) == pytest.approx(1, abs=1e-12)
    written = {}
    for ids, _, _, number in brute.documents(raw):
        written.setdefault(number, set()).add(len(ids) - 2)
    assert [written[k] for k in range(len(written))] == [{len(t.cells)} for t in read.templates]


PERSON, LOST = ("tables", "person"), ("frames", "lost")
SLOT = (*LOST, "slots", 0)
QUESTION = (*LOST, "questions", 0)

# what is wrong: (where in GOOD, what stands there instead, where the message points, what it says)
MISTAKES = {
    "unknown table": ((*LOST, "draws", "x"), "persons", "frames.lost.draws.x", "'persons'"),
    "unknown column": (SLOT, ["{x.nmae} and {item.name}"], "frames.lost.slots[0][0]", "{x.nmae}"),
    "unknown draw": (SLOT, ["{y.name} and {item.name}"], "frames.lost.slots[0][0]", "{y.name}"),
    "ragged row": ((*PERSON, "rows", 1), ["Otto"], "tables.person.rows[1]", "1 words for 2"),
    "long row": ((*PERSON, "rows", 1), ["Otto"] * 3, "tables.person.rows[1]", "3 words for 2"),
    "no rows": ((*PERSON, "rows"), [], "tables.person.rows", "no rows"),
    "no columns": ((*PERSON, "columns"), [], "tables.person.columns", "()"),
    "column twice": ((*PERSON, "columns"), ["a", "a"], "tables.person.columns", "once each"),
    "weight missing": ((*PERSON, "weights"), [1, 2], "tables.person.weights", "2 weights for 3"),
    "two words": ((*PERSON, "rows", 0, 0), "Ada Moss", "tables.person.rows[0].name", "'Ada Moss'"),
    "half a word": ((*PERSON, "rows", 0, 0), "can't", "tables.person.rows[0].name", "can't"),
    "hyphen": ((*PERSON, "rows", 2, 1), "He-man", "tables.person.rows[2].She", "'He-man'"),
    "no word": ((*PERSON, "rows", 0, 0), "", "tables.person.rows[0].name", "''"),
    "spaced word": ((*PERSON, "rows", 0, 0), " Ada", "tables.person.rows[0].name", "' Ada'"),
    "a mark": ((*PERSON, "rows", 0, 0), "!", "tables.person.rows[0].name", "'!'"),
    "a number": ((*PERSON, "rows", 0, 0), 7, "tables.person.rows[0].name", "7"),
    "bad tag": ((*PERSON, "tags", "name"), "PER", "tables.person.tags.name", "'PER'"),
    "tag of no column": ((*PERSON, "tags", "last"), "B-PER", "tables.person.tags.last", "no such"),
    "empty slot": (SLOT, [], "frames.lost.slots[0]", "empty slot"),
    "no slots": ((*LOST, "slots"), [], "frames.lost.slots", "at least one slot"),
    "unused draw": ((*LOST, "draws", "spare"), "person", "frames.lost.draws", "spare"),
    "bad side": ((*SLOT, 0, "side"), "above", "frames.lost.slots[0][0].side", "'above'"),
    "two sides": (
        (*LOST, "slots", 1, 0),
        {"text": "{x.She} left.", "side": "right"},
        "frames.lost",
        "two variants with a side",
    ),
    "answer of no draw": (
        (*QUESTION, "answer"),
        "y.name",
        "frames.lost.questions[0].answer",
        "'y'",
    ),
    "answer of no column": (
        (*QUESTION, "answer"),
        "x.last",
        "frames.lost.questions[0].answer",
        "'last'",
    ),
    "answer a word": ((*QUESTION, "answer"), "Ada", "frames.lost.questions[0].answer", "'Ada'"),
    "answer two cells": (
        (*QUESTION, "answer"),
        "x.name} {x.name",
        "frames.lost.questions[0].answer",
        "expected draw.column",
    ),
    "question unknown": (
        (*QUESTION, "ask"),
        "Who lost {what.name}?",
        "frames.lost.questions[0].ask",
        "'what'",
    ),
    "empty text": ((*SLOT, 1), " ", "frames.lost.slots[0][1]", "at least one word"),
    "double space": ((*SLOT, 1), "{x.name}  lost", "frames.lost.slots[0][1]", "one space"),
    "space at end": ((*SLOT, 1), "{x.name} ", "frames.lost.slots[0][1]", "one space"),
    "line break": ((*SLOT, 1), "{x.name}\nlost", "frames.lost.slots[0][1]", "one space"),
    "tab": ((*SLOT, 1), "{x.name}\tlost", "frames.lost.slots[0][1]", "one space"),
    "no-break space": ((*SLOT, 1), "a\u00a0b", "frames.lost.slots[0][1]", "one space"),
    "glued before": ((*SLOT, 1), "Miss{x.name} lost", "frames.lost.slots[0][1]", "{x.name} must"),
    "glued after": ((*SLOT, 1), "{x.name}s lost", "frames.lost.slots[0][1]", "{x.name} must"),
    "glued together": ((*SLOT, 1), "{x.name}{x.She}", "frames.lost.slots[0][1]", "{x.name} must"),
    "quoted": ((*SLOT, 1), "say '{x.name}'", "frames.lost.slots[0][1]", "{x.name} must"),
    "half a reference": ((*SLOT, 1), "{x} lost", "frames.lost.slots[0][1]", "{draw.column}"),
    "unknown key in a variant": ((*SLOT, 0, "wieght"), 2, "frames.lost.slots[0][0]", "wieght"),
    "unknown key in a frame": ((*LOST, "draw"), {}, "frames.lost", "unknown key draw"),
    "unknown key in a table": ((*PERSON, "tag"), {}, "tables.person", "unknown key tag"),
    "unknown key in a question": ((*QUESTION, "side"), "left", "frames.lost.questions[0]", "side"),
    "unknown key in the file": (("author",), "me", "file", "unknown key author"),
    "missing edition": (("edition",), ..., "file", "missing edition"),
    "missing tables": (("tables",), ..., "file", "missing tables"),
    "no tables": (("tables",), {}, "tables", "empty"),
    "no frames": (("frames",), {}, "frames", "empty"),
    "missing columns": ((*PERSON, "columns"), ..., "tables.person", "missing columns"),
    "missing rows": ((*PERSON, "rows"), ..., "tables.person", "missing rows"),
    "missing weight": ((*LOST, "weight"), ..., "frames.lost", "missing weight"),
    "missing slots": ((*LOST, "slots"), ..., "frames.lost", "missing slots"),
    "missing text": ((*SLOT, 0, "text"), ..., "frames.lost.slots[0][0]", "missing text"),
    "missing answer": ((*QUESTION, "answer"), ..., "frames.lost.questions[0]", "missing answer"),
    # of another kind than expected
    "edition a list": (("edition",), ["Evening"], "edition", "a text"),
    "paper a number": (("paper",), 3, "paper", "a text"),
    "tables a list": (("tables",), [1], "tables", "a table of keys"),
    "frames a text": (("frames",), "lost", "frames", "a table of keys"),
    "table a list": (PERSON, [["Ada"]], "tables.person", "a table of keys"),
    "columns a text": ((*PERSON, "columns"), "ab", "tables.person.columns", "a list"),
    "columns a number": ((*PERSON, "columns"), 2, "tables.person.columns", "a list"),
    "column a list": (
        (*PERSON, "columns"),
        [["name"], "She"],
        "tables.person.columns[0]",
        "a text",
    ),
    "rows a text": ((*PERSON, "rows"), "Ada", "tables.person.rows", "a list"),
    "rows a table": ((*PERSON, "rows"), {"Ada": "She"}, "tables.person.rows", "a list"),
    "row a text": ((*PERSON, "rows", 1), "ab", "tables.person.rows[1]", "a list"),
    "row a number": ((*PERSON, "rows", 1), 5, "tables.person.rows[1]", "a list"),
    "weights a text": ((*PERSON, "weights"), "211", "tables.person.weights", "a list"),
    "weights a number": ((*PERSON, "weights"), 3, "tables.person.weights", "a list"),
    "tags a list": ((*PERSON, "tags"), ["B-PER"], "tables.person.tags", "a table of keys"),
    "tags a text": ((*PERSON, "tags"), "B-PER", "tables.person.tags", "a table of keys"),
    "tag a list": ((*PERSON, "tags", "name"), ["B-PER"], "tables.person.tags.name", "B-PER"),
    "frame a text": (LOST, "lost", "frames.lost", "a table of keys"),
    "draws a list": ((*LOST, "draws"), ["person"], "frames.lost.draws", "a table of keys"),
    "draw a list": ((*LOST, "draws", "x"), ["person"], "frames.lost.draws.x", "a text"),
    "slots a text": ((*LOST, "slots"), "lost", "frames.lost.slots", "a list"),
    "slots a number": ((*LOST, "slots"), 1, "frames.lost.slots", "a list"),
    "slot a text": (SLOT, "lost", "frames.lost.slots[0]", "empty slot"),
    "variant a number": ((*SLOT, 1), 1, "frames.lost.slots[0][1]", "a table of keys"),
    "text a number": ((*SLOT, 0, "text"), 1, "frames.lost.slots[0][0]", "at least one word"),
    "side a list": ((*SLOT, 0, "side"), ["left"], "frames.lost.slots[0][0].side", "left"),
    "questions a text": ((*LOST, "questions"), "Who?", "frames.lost.questions", "a list"),
    "questions a table": ((*LOST, "questions"), {"a": 1}, "frames.lost.questions", "a list"),
    "question a text": (QUESTION, "Who?", "frames.lost.questions[0]", "a table of keys"),
    "ask a list": ((*QUESTION, "ask"), ["Who?"], "frames.lost.questions[0].ask", "Who?"),
    "answer a number": ((*QUESTION, "answer"), 1.5, "frames.lost.questions[0].answer", "a text"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named(load, tmp_path, name):
    path, new, where, says = MISTAKES[name]
    with pytest.raises(GrammarError) as error:
        load(changed(path, new))
    assert str(error.value).startswith(f"{tmp_path / 'paper.toml'}: {where}: ")
    assert says in str(error.value)


WEIGHTS = {
    "tables.person.weights[1]": (*PERSON, "weights", 1),
    "frames.lost.weight": (*LOST, "weight"),
    "frames.lost.slots[0][0].weight": (*SLOT, 0, "weight"),
}


@pytest.mark.parametrize("where", WEIGHTS)
@pytest.mark.parametrize(
    "weight", [0, -1, -0.5, math.nan, math.inf, True, "2", [1], 1e-300, 1e300, 10**400]
)
def test_a_weight_is_a_positive_number(load, where, weight):
    with pytest.raises(GrammarError, match=re.escape(f"paper.toml: {where}: a weight is a pos")):
        load(changed(WEIGHTS[where], weight))


@pytest.mark.parametrize("text", ["edition = ", "a = 1\na = 2", "<html>", "[tables]\n\x00"])
def test_not_toml(load, text):
    with pytest.raises(GrammarError, match=r"paper\.toml: not a TOML file: "):
        load(text)


def test_not_utf8(tmp_path):
    path = tmp_path / "paper.toml"
    path.write_bytes(b'edition = "\xff"')
    with pytest.raises(GrammarError, match=r"paper\.toml: not a TOML file: "):
        load_grammar(path)


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no-paper"):
        load_grammar(tmp_path / "no-paper.toml")


# -- whatever TOML can say ------------------------------------------------------------------------

scalars = st.one_of(
    st.none(),  # stands for: take the key out
    st.booleans(),
    st.integers(-2, 3),
    st.just(10**400),
    st.floats(),
    st.sampled_from(["", "a", "person", "{x.name}", "x.name", "{", "left", "B-PER", "a  b", "\n"]),
    st.dates(),
)
odd = st.recursive(
    scalars.filter(lambda item: item is not None),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["text", "weight", "side", "name", "x", "ask", "rows", "a b"]),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=6,
)


def places(raw, above=()):
    """Every path into nested dicts and lists."""
    items = (
        raw.items() if isinstance(raw, dict) else enumerate(raw) if isinstance(raw, list) else ()
    )
    for key, item in items:
        yield (*above, key)
        yield from places(item, (*above, key))


@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(places(GOOD), key=repr)), st.one_of(st.none(), odd)),
        min_size=1,
        max_size=2,
    )
)
@settings(max_examples=400, deadline=None)
def test_odd_structure_is_refused_or_read_but_never_crashes(edits):
    raw = copy.deepcopy(GOOD)
    for (*above, last), new in edits:
        place = raw
        try:
            for key in above:
                place = place[key]
            if new is None:
                del place[last]
            else:
                place[last] = copy.deepcopy(new)
        except (KeyError, IndexError, TypeError):  # an edit before has taken the place away
            continue
    with mock.patch.object(tomllib, "loads", lambda text: raw):
        try:
            read = load_grammar(__file__)
        except GrammarError as error:
            assert str(error).startswith(f"{__file__}: ")
        else:
            assert math.fsum(t.prior for t in read.templates) == pytest.approx(1, abs=1e-9)
            assert all(isinstance(unit, str) and unit.strip() for unit in read.units())


def test_the_toml_writer_of_these_tests(tmp_path):
    assert tomllib.loads(brute.toml(GOOD)) == GOOD


# -- words are cut as the tokenizer cuts the finished text ----------------------------------------


@given(
    st.lists(
        st.sampled_from(
            ["{x.name}", "{x.She}", "{item.name}", "Ada's", "3rd", "lost", "(no)", "-", "!", "é"]
        ),
        min_size=1,
        max_size=5,
    ),
    st.lists(
        st.sampled_from(["", ",", ".", "!?", "'s", "'ll", '"', "-x", "²", "_", "\u0301"]),
        min_size=5,
        max_size=5,
    ),
)
@settings(max_examples=300, deadline=None)
def test_cells_are_the_pretokens_of_the_text(words, marks):
    text = " ".join(word + mark for word, mark in zip(words, marks, strict=False))
    raw = changed((*LOST, "slots"), [[text, "{x.name} has the {item.name}."]])
    with mock.patch.object(tomllib, "loads", lambda _: raw):
        try:
            read = load_grammar(__file__)
        except GrammarError as error:
            assert "must stand as a word of its own" in str(error)
            return
    template = read.templates[0]
    row = {"name": "Marlow", "She": "He"}
    filled = (
        text.replace("{x.name}", "Marlow").replace("{x.She}", "He").replace("{item.name}", "bell")
    )
    units = [
        cell.word or " " + (row[cell.column] if cell.draw == "x" else "bell")
        for cell in template.cells
    ]
    assert units == grammar.pretokens(" " + filled)
