"""Exercises of chapter 05: the stub is refused, the solution passes, wrong answers are named."""

import pytest
import torch
from exercise_cells import cell

from mylib.exercises import NotSolved, chapter05
from mylib.grammar import TAGS
from mylib.heads import viterbi
from mylib.objectives import Tagged

NOTEBOOK = "05-named-entities.ipynb"


def test_stubs_are_refused():
    stub = cell(NOTEBOOK, "exercise-1-stub")
    with pytest.raises(NotSolved, match="write your answer"):
        chapter05.check_pieces(stub["asked_at"])
    stub = cell(NOTEBOOK, "exercise-2-stub")
    with pytest.raises(NotSolved, match="write your answer"):
        chapter05.check_beat(stub["decode"], stub["again"])
    stub = cell(NOTEBOOK, "exercise-3-stub")
    with pytest.raises(NotSolved, match="write your answer"):
        chapter05.check_strict_f1(stub["strict_f1"])


def test_solutions_pass(capsys):
    chapter05.check_pieces(cell(NOTEBOOK, "exercise-1-solution")["asked_at_solution"])
    solved = cell(NOTEBOOK, "exercise-2-solution")
    chapter05.check_beat(solved["decode_solution"], solved["again_solution"])
    chapter05.check_strict_f1(cell(NOTEBOOK, "exercise-3-solution")["strict_f1_solution"])
    assert capsys.readouterr().out.count("solved") == 3


# -- 5.1 ---------------------------------------------------------------------------------------


def own(words, spans):
    return chapter05._own(words, spans)


def inside(words, spans, reader):
    """A token that lies inside the word is its own: an empty one (0, 0) lies there, too."""
    places, start = [], 0
    for word in words:
        stop = start + len(word)
        mine = [n for n, (a, b) in enumerate(spans) if start <= a and b <= stop]
        places.append(mine[-1] if reader == "causal" else mine[0])
        start = stop + 1
    return places


@pytest.mark.parametrize(
    ("asked_at", "line"),
    [
        (lambda words, spans, reader: range(len(spans)), "return a list"),
        (lambda words, spans, reader: [*range(len(spans))], "every piece is counted as a word"),
        (lambda words, spans, reader: [m[0] for m in own(words, spans)], "asked at the first"),
        (lambda words, spans, reader: [m[-1] for m in own(words, spans)], "asked at the last"),
        (lambda words, spans, reader: [*range(len(words))], "words before it have pieces"),
        (lambda words, spans, reader: [m[len(m) // 2] for m in own(words, spans)], "last piece"),
        (lambda words, spans, reader: [0] * len(words), "a token of another word, or of none"),
        (inside, "'Zoë' is asked at a token of another word, or of none"),
        (lambda words, spans, reader: [0], "one for each word"),
        (lambda words, spans, reader: [len(spans)] * len(words), "number of a token"),
        (lambda words, spans, reader: words + 1, "stopped with TypeError"),
    ],
)
def test_wrong_places_are_named(asked_at, line):
    with pytest.raises(NotSolved, match=line):
        chapter05.check_pieces(asked_at)


# -- 5.2 ---------------------------------------------------------------------------------------


def by_path(log_probs):
    return viterbi(log_probs, TAGS)


def by_word(log_probs):
    return [TAGS[k] for k in log_probs.argmax(-1).tolist()]


def first_word_wins(log_probs):
    tags = by_word(log_probs)
    for n in range(1, len(tags)):
        if tags[n].startswith("I-"):
            tags[n] = "I-" + tags[n - 1][2:]
    return tags


def no_second_word(log_probs):
    return [tag.replace("I-", "B-") for tag in by_word(log_probs)]


def always_a_person(log_probs):
    """Right where it must be, and a person wherever a name of one word begins."""
    tags = by_path(log_probs)
    followed = [*(tag.startswith("I-") for tag in tags[1:]), False]
    return [
        "B-PER" if tag.startswith("B-") and not more else tag
        for tag, more in zip(tags, followed, strict=True)
    ]


def twice(document):
    return document.twice()


def shifted(document, first=None, last=None, ids=None):
    found = document.twice()
    first = found.first if first is None else first
    return Tagged(
        found.ids if ids is None else ids,
        document.tags,
        first,
        first if last is None else last,
    )


def at_the_end(document):
    return shifted(document, first=torch.full_like(document.first, len(document.ids) - 1))


def backwards(document):
    return shifted(document, first=document.twice().first.flip(0))


def out_of_the_text(document):
    return shifted(document, first=document.twice().first + 2)


def other_words(document):
    """Asked one token too early."""
    found = document.twice()
    return shifted(document, first=found.first - 1)


def half_way(document):
    """The first half of the words is asked in the first reading."""
    found = document.twice()
    middle = len(document.tags) // 2
    place = torch.cat([document.first[:middle], found.first[middle:]])
    return shifted(document, first=place)


@pytest.mark.parametrize(
    ("decode", "line"),
    [
        (by_word, "belongs to all that may look right, and decoding may"),
        (first_word_wins, "the wrong word gave in"),
        (no_second_word, "no name of two words is left"),
        (always_a_person, "change names of one word"),
        (lambda log_probs: ["O"], "words, 1 tags"),
        (lambda log_probs: log_probs.argmax(-1), "returns a list of tags"),
    ],
)
def test_wrong_decodings_are_named(decode, line):
    with pytest.raises(NotSolved, match=line):
        chapter05.check_beat(decode, twice)


@pytest.mark.parametrize(
    ("again", "line"),
    [
        (lambda document: document, "no weights can pass the ceiling here"),
        (lambda d: shifted(d, first=d.first), "you ask in its first reading"),
        (half_way, "some words are asked before the whole text"),
        (at_the_end, "^ask each word at a token of its own, in order$"),
        (backwards, "^ask each word at a token of its own, in order$"),
        (out_of_the_text, "stopped with ValueError: words lie from first to last token"),
        (lambda document: document.ids, "returns a Tagged document"),
        (other_words, "one output cannot name all words"),
    ],
)
def test_wrong_texts_are_named(again, line):
    with pytest.raises(NotSolved, match=line):
        chapter05.check_beat(by_path, again)


def test_another_right_answer_passes():
    def question_in_front(document):
        """The words once more, without <eos> between them."""
        ids = torch.cat([document.ids[:-1], document.ids[1:]])
        place = document.first + len(document.ids) - 2
        return Tagged(ids, document.tags, place, place)

    chapter05.check_beat(by_path, question_in_front)


# -- 5.3 ---------------------------------------------------------------------------------------


def names(tags, *, loose=False, glued=False, through=False):
    found = []
    for place, tag in enumerate(tags):
        kind, before = tag[2:], tags[place - 1] if place else "O"
        going = before != "O" and (through or before[2:] == kind)
        open_name = bool(found) and found[-1][2] == place - 1
        if tag == "O":
            continue
        if (tag.startswith("I-") or glued) and going and open_name:
            found[-1][2] = place
        elif tag.startswith("B-") or loose:
            found.append([kind, place, place])
    return {tuple(name) for name in found}


def f1(gold, said, half=0.0, **how):
    pairs = [
        (names(one, **how), names(other, **how)) for one, other in zip(gold, said, strict=True)
    ]
    right = sum(len(one & other) for one, other in pairs)
    spans = [({n[1:] for n in one}, {n[1:] for n in other}) for one, other in pairs]
    right += half * (sum(len(one & other) for one, other in spans) - right)
    both = sum(len(one) + len(other) for one, other in pairs)
    return 2 * right / both if both else 0.0


def mean_of_documents(gold, said):
    return sum(f1([one], [other]) for one, other in zip(gold, said, strict=True)) / len(gold)


def of_words(gold, said):
    pairs = [
        (a, b)
        for one, other in zip(gold, said, strict=True)
        for a, b in zip(one, other, strict=True)
    ]
    right = sum(a == b != "O" for a, b in pairs)
    both = sum((a != "O") + (b != "O") for a, b in pairs)
    return 2 * right / both if both else 0.0


@pytest.mark.parametrize(
    ("strict_f1", "line"),
    [
        (lambda gold, said: f1(gold, said, loose=True), "nothing began is no entity|of another"),
        (lambda gold, said: f1(gold, said, half=0.5), "earns nothing, not a half"),
        (mean_of_documents, "the mean of the documents' scores"),
        (of_words, "Entities are counted"),
        (lambda gold, said: f1(gold, said, glued=True), "B- begins a new name"),
        (lambda gold, said: f1(gold, said, through=True), "does not go on with the name"),
        (lambda gold, said: f1(gold, said) or float(gold == said), "0/0 is 0.0"),
        (lambda gold, said: f1(gold, said) / 2, "all is right there"),
        (lambda gold, said: None, "return a number"),
    ],
)
def test_wrong_measures_are_named(strict_f1, line):
    with pytest.raises(NotSolved, match=line):
        chapter05.check_strict_f1(strict_f1)


def test_the_measure_of_these_tests_is_right_without_its_mistakes():
    chapter05.check_strict_f1(f1)
