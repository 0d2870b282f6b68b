"""The Gazette as a task: tags and their ceilings, questions and where their answers stand."""

import re

import brute
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from test_gazette import SMALL

from mylib.gazette import EDITIONS, Gazette
from mylib.grammar import TAGS
from mylib.questions import Asked, pairs
from mylib.tasks import asking, likeliest, tag_log_probs, tagged_documents
from mylib.tokenizer import BOS, EOS, PAD, decode, encode

SLOW = [HealthCheck.too_slow]  # a busy machine is no bug

CLOSE = {"rtol": 0, "atol": 2e-9}  # log p is rounded to nine decimals


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module", params=EDITIONS)
def gazette(request):
    return Gazette.load(request.param)


# -- tags --------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None, suppress_health_check=SLOW)
@given(brute.grammars())
def test_what_is_known_of_the_tags(press, raw):
    gazette, every = press(raw)
    texts = [row[: int((row == EOS).nonzero()[0]) + 1] for row in every.ids[:6]]
    left, whole = (tag_log_probs(gazette, texts, sees) for sees in ("left", "all"))
    for text, a, b in zip(texts, left, whole, strict=True):
        assert a.shape == b.shape == (len(text) - 2, len(TAGS)) and a.dtype == torch.float64
        for word in range(len(text) - 2):
            # Brute force: a shorter text is one of which nothing more is seen.
            seen = text[: word + 2]
            weights = every.weights(seen, torch.ones_like(seen).bool())
            wanted = every.spread(weights, every.tags, len(TAGS))[word + 1]
            torch.testing.assert_close(a[word].exp(), wanted, **CLOSE)
            weights = every.weights(text, torch.ones_like(text).bool())
            wanted = every.spread(weights, every.tags, len(TAGS))[word + 1]
            torch.testing.assert_close(b[word].exp(), wanted, **CLOSE)


def test_the_reader_of_the_left_is_not_told_what_comes(gazette):
    """Two texts that begin alike: their tags are known alike as far as they are alike."""
    texts = sorted(gazette.sample(120, chance()), key=lambda text: text.tolist())
    left = tag_log_probs(gazette, texts, "left")
    told = 0
    for one, other, a, b in zip(texts, texts[1:], left, left[1:], strict=False):
        short = min(len(one), len(other))
        alike = int((one[:short] == other[:short]).long().cumprod(0).sum()) - 1  # without <bos>
        alike = min(alike, len(a), len(b))
        torch.testing.assert_close(a[:alike], b[:alike], **CLOSE)
        told += alike < len(a) and not torch.allclose(a[: alike + 1], b[: alike + 1])
    assert told > 20  # the next word would have told something


def test_with_the_whole_text_tags_are_certain(gazette):
    texts = gazette.sample(25, chance())
    documents = tagged_documents(gazette, texts)
    whole = tag_log_probs(gazette, texts, "all")
    told = sum(len(text) - 2 for text in texts)
    entities = 0
    for text, document, log_probs in zip(texts, documents, whole, strict=True):
        assert torch.equal(document.ids, text)
        assert document.first.tolist() == document.last.tolist() == [*range(1, len(text) - 1)]
        assert log_probs.max(-1).values.abs().max() < 1e-9
        entities += int((document.tags > 0).sum())
        tags = [TAGS[k] for k in document.tags.tolist()]
        assert likeliest([log_probs]) == [tags]
        for before, tag in zip(["O", *tags], tags, strict=False):
            assert not tag.startswith("I-") or before[2:] == tag[2:]
    assert 0.05 < entities / told < 0.5
    # From the left alone they are not, and the last word is judged with the whole text but <eos>.
    left = tag_log_probs(gazette, texts, "left")
    sure = torch.cat([each.max(-1).values for each in left])
    assert (sure < -1e-3).any() and float((sure > -1e-9).double().mean()) > 0.5
    assert tag_log_probs(gazette, [], "left") == [] == likeliest([])


def test_a_reader_sees_left_or_all(gazette):
    with pytest.raises(ValueError, match="'left' or 'all', not 'right'"):
        tag_log_probs(gazette, [], "right")


TWO_WAYS = {
    "edition": "test",
    "paper": "Two ways",
    "tables": {
        "who": {"columns": ["a"], "rows": [["Ada"], ["Marlow"]], "tags": {"a": "B-PER"}},
        "where": {"columns": ["a"], "rows": [["Ashby"], ["Marlow"]], "tags": {"a": "B-LOC"}},
    },
    "frames": {
        "f": {"weight": 1, "draws": {"x": "who"}, "slots": [["On the {x.a}."]]},
        "g": {"weight": 1, "draws": {"x": "where"}, "slots": [["On the {x.a}."]]},
    },
}


def test_tags_that_are_not_certain_are_refused(press):
    gazette, _ = press(TWO_WAYS)
    good, both, foreign = (
        torch.tensor([BOS, *encode(text), EOS])
        for text in ("On the Ada.", "On the Marlow.", "the On Ada.")
    )
    (document,) = tagged_documents(gazette, [good])
    assert [TAGS[k] for k in document.tags.tolist()] == ["O", "O", "B-PER", "O"]
    with pytest.raises(ValueError, match=r"document 1 has no certain tags: 'On the Marlow\.'"):
        tagged_documents(gazette, [good, both])
    with pytest.raises(ValueError, match="document 0 has no certain tags"):
        tagged_documents(gazette, [foreign])


# -- questions in a row ------------------------------------------------------------------------


def by_hand(answer=(3, 3)):
    document = torch.tensor([BOS, 20, 21, 22, 23, EOS])
    return Asked(torch.tensor([30, 31]), document, answer, "left" if answer else None)


def test_rows_by_hand():
    first, last, none = (asking(by_hand(), place) for place in ("first", "last", "none"))
    assert first.ids.tolist() == [BOS, 30, 31, 20, 21, 22, 23, EOS]
    assert last.ids.tolist() == [BOS, 20, 21, 22, 23, 30, 31, EOS]
    assert none.ids.tolist() == [BOS, 20, 21, 22, 23, EOS]
    assert (first.answer, last.answer, none.answer) == ((5, 5), (3, 3), (3, 3))
    assert (first.null, last.null, none.null) == (7, 7, 5)
    for row, start in ((first, 3), (last, 1), (none, 1)):
        assert row.candidates.nonzero()[:, 0].tolist() == [*range(start, start + 4)]
    assert torch.equal(asking(by_hand()).ids, first.ids)
    two = asking(by_hand((2, 4)))
    assert two.answer == (4, 6) and two.ids[4:7].tolist() == [21, 22, 23]
    assert asking(by_hand(None)).answer is None


@pytest.mark.parametrize("place", ["first", "last", "none"])
def test_the_answer_is_the_answer_in_every_layout(gazette, place):
    items = gazette.questions(150, chance(1))
    assert {item.answer is None for item in items} == {True, False}
    for item in items:
        row = asking(item, place)
        words = row.ids[row.candidates]
        assert torch.equal(words, item.document[1:-1]) and row.ids[row.null] == EOS
        assert (row.ids == BOS).sum() == (row.ids == EOS).sum() == 1
        if item.answer is None:
            assert row.answer is None
            continue
        there = row.ids[row.answer[0] : row.answer[1] + 1]
        assert torch.equal(there, item.document[item.answer[0] : item.answer[1] + 1])


@pytest.mark.parametrize(
    "document",
    [
        [BOS, 20, EOS, PAD],
        [BOS, 20, PAD, EOS],
        [BOS, 20],
        [20, EOS],
    ],
)
def test_rows_that_are_no_document_are_refused(document):
    item = Asked(torch.tensor([30]), torch.tensor(document), None, None)
    with pytest.raises(ValueError, match=r"<bos> \.\.\. <eos> without padding"):
        asking(item)
    with pytest.raises(ValueError, match="'first', 'last' or 'none', not 'middle'"):
        asking(by_hand(), "middle")


# -- what decides an answer --------------------------------------------------------------------


def share_of_answer(gazette, item, seen):
    """p(the answer stands where it stands | the question, the words seen), over all templates."""
    t = gazette._templates
    canvas = gazette.canvas([item.document])
    visible = torch.zeros_like(canvas, dtype=torch.bool)
    visible[:, seen] = True
    weights = t.joint(*t.seen(canvas, visible))[0][0].exp()
    asked = tuple(item.question.tolist())
    total = right = 0.0
    for pair in [pair for found in pairs(t).values() for pair in found]:
        if pair.words == asked:
            total += float(weights[pair.template])
            right += float(weights[pair.template]) * (pair.answer == item.answer[0])
    return right / total if total else None


def test_the_side_of_the_evidence_decides(gazette):
    """A reader who has come to the answer knows it by then, or cannot know it yet."""
    shares = {"left": [], "right": []}
    # The Sunday edition's remedies give themselves away: the one that helps has a mood, the other a
    # colour. Its "right" says where the sentence says so, not where the first hint stands.
    early = "What helps the writer?"
    for item in gazette.questions(100, chance(2), none=0.0):
        share = share_of_answer(gazette, item, slice(0, item.answer[0] + 1))
        if decode(item.question.tolist()) == early and item.side == "right":
            assert share == pytest.approx(1, abs=1e-9)
        elif share is not None:  # a question that names a word of the document has none
            shares[item.side].append(share)
            whole = share_of_answer(gazette, item, slice(0, None))
            assert whole == pytest.approx(1, abs=1e-9)
    assert min(len(found) for found in shares.values()) > 15
    assert min(shares["left"]) == pytest.approx(1, abs=1e-9)
    assert max(shares["right"]) < 0.9


def test_what_the_writer_can_bear_is_the_other_complaint():
    gazette = Gazette.load("small")
    questions = {"What troubles the writer?": {}, "What can the writer bear?": {}}
    for side in ("left", "right"):
        for pair in pairs(gazette._templates)[side]:
            if (asked := decode(pair.words) if min(pair.words) > 0 else "") in questions:
                questions[asked][pair.template] = (pair.answer, side)
    trouble, bear = questions.values()
    assert trouble.keys() == bear.keys() and len(trouble) >= 8
    for template, (place, side) in trouble.items():
        assert bear[template][0] != place and bear[template][1] == side
    says = [
        r"I can bear the \w+ (\w+)",
        r"The \w+ \w+ and the \w+ (\w+): the first troubles me",
        r"The \w+ (\w+) and the \w+ \w+: the second troubles me",
    ]
    known = 0
    for item in gazette.questions(400, chance(3), none=0.0):
        if decode(item.question.tolist()) != "What can the writer bear?":
            continue
        word = decode([int(item.document[item.answer[0]])])
        found = [re.search(pattern, gazette.text(item.document)) for pattern in says]
        known += any(found)
        assert all(match is None or match[1] == word for match in found)
    assert known > 30


def test_a_paper_without_questions_has_none(press):
    gazette, _ = press(SMALL)
    assert not any(pairs(gazette._templates).values())
