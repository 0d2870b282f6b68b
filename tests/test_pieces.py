"""Words and their pieces: every piece belongs to its word, whatever the word is made of."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mylib.gazette import Gazette
from mylib.grammar import TAGS
from mylib.heads import align, tagged
from mylib.tokenizer import BOS, EOS, gpt2_tokenizer, load_tokenizer

SLOW = [HealthCheck.too_slow]  # a busy machine is no bug

ENCODING = load_tokenizer()
HARD = [
    "Ada", "umbrellas", "can't", "don't.", "U.S.A.", "naïve", "nai\u0308ve", "e\u0301\u0302",
    "🙂", "👩‍👩‍👧", "🇩🇪", "中文", "a\u00a0b", "1,234.50", "@user", "#tag", "http://t.co/x?y=1",
    "...", "''", "'s", "\u200b", "\u200d", "ﬁ", "İ", "ß", "x'll", "—", "½", "٣", "ไทย", "a\u3000b",
    "<bos>", "[MASK]", "\ufffd", "\x00", "New York",
]  # fmt: skip
LETTERS = st.sampled_from("aAzé'.,!-?5½中🙂\u0301\u00a0\u200d\u3000ñß")
WORDS = st.one_of(
    st.sampled_from(HARD),
    st.text(LETTERS, min_size=1, max_size=5),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4),
)


def check(words, encoding):
    ids, first, last = align(words, encoding)
    assert ids.tolist() == encoding.encode_ordinary(" " + " ".join(words))
    assert ids.dtype == first.dtype == last.dtype == torch.long
    assert len(first) == len(last) == len(words)
    assert (first <= last).all() and first.min() >= 0 and last.max() < len(ids)
    assert (first.diff() >= 0).all() and (last.diff() >= 0).all()
    for word, a, b in zip(words, first.tolist(), last.tolist(), strict=True):
        found = encoding.decode(ids[a : b + 1].tolist(), errors="strict")
        if word.strip() == word and not any(c.isspace() for c in word):
            assert found.removeprefix(" ") == word
        else:  # spaces at its edges may share a token with those around the word
            assert word in found or word.strip() in found


@settings(max_examples=150, deadline=None, suppress_health_check=SLOW)
@given(st.lists(WORDS, min_size=1, max_size=6))
def test_the_pieces_of_a_word_are_the_word(words):
    check(words, ENCODING)


@settings(max_examples=60, deadline=None, suppress_health_check=SLOW)
@given(words=st.lists(WORDS, min_size=1, max_size=6))
def check_gpt2(encoding, words):
    check(words, encoding)


def test_the_pieces_of_a_word_are_the_word_for_gpt2_too(real_data):
    encoding = gpt2_tokenizer()
    check_gpt2(encoding)
    check(HARD, encoding)
    ids, first, last = align(["Ashby", "can't", "sleep"], encoding)
    assert (last - first + 1).tolist() == [2, 2, 1] and len(ids) == 5


def test_hard_words_alone_and_in_a_row():
    check(HARD, ENCODING)
    for word in HARD:
        check([word], ENCODING)
        check(["Ada", word, "Ada"], ENCODING)


def test_words_of_white_space_have_tokens():
    """A decision: what the tokenizer has a token for is a word, even if nobody can see it."""
    for space in ("\u00a0", "\u3000", "\t", "\n", " ", "\u2009\u2009"):
        ids, first, last = align(["Ada", space, "sleeps"], ENCODING)
        assert last[0] < first[1] <= last[1] < first[2]
        assert ENCODING.decode(ids[first[2] :].tolist()) == " sleeps"


def test_no_words_and_empty_words_are_refused():
    with pytest.raises(ValueError, match="a sentence without words"):
        align([], ENCODING)
    for words, number in [([""], 0), (["Ada", "", "sleeps"], 1), (["Ada", ""], 1), (["", ""], 0)]:
        with pytest.raises(ValueError, match=f"word {number}, '', has no token"):
            align(words, ENCODING)


# -- documents ---------------------------------------------------------------------------------


def test_a_sentence_as_a_document():
    words, tags = ["Ada", "Xyqw", "sleeps"], ["B-PER", "I-PER", "O"]
    bare = tagged(words, tags, TAGS, ENCODING)
    ids, first, last = align(words, ENCODING)
    assert torch.equal(bare.ids, ids) and torch.equal(bare.first, first)
    assert [TAGS[k] for k in bare.tags.tolist()] == tags
    framed = tagged(words, tags, TAGS, ENCODING, begin=[BOS, BOS], end=[EOS])
    assert framed.ids.tolist() == [BOS, BOS, *ids.tolist(), EOS]
    assert torch.equal(framed.first, first + 2) and torch.equal(framed.last, last + 2)
    assert framed.ids.dtype == framed.tags.dtype == torch.long
    other = tagged(words, tags, TAGS[::-1], ENCODING)
    assert other.tags.tolist() == [len(TAGS) - 1 - k for k in bare.tags.tolist()]


@pytest.mark.parametrize(
    ("words", "tags", "message"),
    [
        (["Ada", "sleeps"], ["B-PER"], "2 words have 1 tags"),
        ([], ["O"], "0 words have 1 tags"),
        ([], [], "a sentence without words"),
        (["Ada", "x", "y"], ["B-per", "O", "B-XY"], r"unknown tags \['B-XY', 'B-per'\]; known"),
        (["Ada"], [""], r"unknown tags \[''\]"),
        (["Ada", ""], ["O", "O"], "word 1, '', has no token"),
    ],
)
def test_sentences_that_make_no_document(words, tags, message):
    with pytest.raises(ValueError, match=message):
        tagged(words, tags, TAGS, ENCODING)


def test_it_agrees_with_the_gazette_s_own_documents():
    gazette = Gazette.load()
    for text in gazette.sample(20, torch.Generator().manual_seed(0)):
        units = [ENCODING.decode([token]).removeprefix(" ") for token in text[1:-1].tolist()]
        joined = [ENCODING.decode([token]) for token in text[1:-1].tolist()]
        words, at = [], []
        for n, (unit, piece) in enumerate(zip(units, joined, strict=True)):
            if piece.startswith(" "):
                words.append(unit)
                at.append([n, n])
            else:  # punctuation hangs on its word
                words[-1] += unit
                at[-1][1] = n
        ids, first, last = align(words, ENCODING)
        assert torch.equal(ids, text[1:-1])
        assert torch.stack([first, last], 1).tolist() == at
