"""A smaller vocabulary spells its own text as before and loses no other; and long texts."""

import time
from itertools import pairwise

import hypothesis.strategies as st
import pytest
import regex
import tiktoken
import tiny
import torch
from hypothesis import given, settings

from mylib import vocabulary
from mylib.convert import with_vocabulary
from mylib.gazette import Gazette
from mylib.tokenizer import FIRST_WORD, PATTERN, SPECIAL_TOKENS, gpt2_tokenizer, load_tokenizer
from mylib.vocabulary import (
    BORDER,
    compact,
    encode_long,
    encode_parts,
    fingerprint,
    of_tokens,
    ordinary,
    save_ranks,
)

BYTES = [bytes([byte]) for byte in range(256)]
# A byte-pair encoding of another form: other ids, a special token at the end, ids that are free.
OTHER = tiktoken.Encoding(
    "other",
    pat_str=PATTERN,
    mergeable_ranks={
        token: i
        for i, token in enumerate(
            [*BYTES, b"se", b" g", b"ee", b" gee", b"eese", b" geese", b"12", "é".encode(), b"  "]
        )
    },
    special_tokens={"<end>": 300},
)

WORDS = [" Two", " geese", " The", "Theer", "geese", "'s", "s", "12", "34", " ", "  ", "\n", "."]
WORDS += ["é", "🙂", "中文", "。", "<pad>", "<end>", "[MASK]", "\0", "\ud83d", "\u0301", "’", "\t"]
texts = st.one_of(st.text(), st.lists(st.sampled_from(WORDS)).map("".join))
encodings = st.sampled_from([load_tokenizer(), OTHER])


def pieces(encoding, text):
    return encoding.decode_tokens_bytes(encoding.encode_ordinary(text))


def as_utf8(text):
    """What tiktoken makes of a text: half a surrogate pair is U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


# -- smaller --------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(encodings, texts, texts)
def test_of_a_text(encoding, text, another):
    small = compact(encoding, text)
    assert pieces(small, text) == pieces(encoding, text)
    for any_text in (text, another):
        ids = small.encode_ordinary(any_text)
        assert small.decode(ids) == as_utf8(any_text)
        assert all(FIRST_WORD <= i < small.n_vocab for i in ids)
    assert len(ordinary(small)) == small.n_vocab - FIRST_WORD <= len(ordinary(encoding))


def test_words_that_are_reached_by_merges_of_higher_rank():
    """The Gazette's words come before the merges that lead to them inside a longer word."""
    gazette = load_tokenizer()
    assert pieces(gazette, " Thelin") == [b" The", b"l", b"in"]
    assert pieces(compact(gazette, " Thelin"), " Thelin") == [b" The", b"l", b"in"]


@pytest.mark.parametrize("encoding", [load_tokenizer(), OTHER], ids=lambda e: e.name)
def test_form(encoding):
    small = compact(encoding, " geese")
    assert {small.encode_single_token(name): name for name in SPECIAL_TOKENS} == dict(
        enumerate(SPECIAL_TOKENS)
    )
    assert small.special_tokens_set == set(SPECIAL_TOKENS)
    assert set(BYTES) <= set(ordinary(small)) <= set(ordinary(encoding))
    assert sorted(ordinary(small).values()) == list(range(FIRST_WORD, small.n_vocab))
    before, after = ordinary(encoding), ordinary(small)
    assert sorted(after, key=before.get) == sorted(after, key=after.get)  # merged in this order


def test_what_a_token_is_merged_from_is_kept():
    assert set(ordinary(compact(OTHER, " geese"))) - set(BYTES) == {
        b" g",
        b"ee",
        b" gee",
        b"se",
        b" geese",
    }
    assert set(ordinary(compact(OTHER, "eese"))) - set(BYTES) == {b"ee", b"se", b"eese"}
    assert set(ordinary(compact(OTHER, ""))) == set(BYTES)


def test_names_of_special_tokens_are_ordinary_text():
    small = compact(load_tokenizer(), "<bos> [MASK]")
    ids = encode_long(small, "<bos> [MASK]").tolist()
    assert min(ids) >= FIRST_WORD and small.decode(ids) == "<bos> [MASK]"


def test_half_a_surrogate_pair():
    small = compact(load_tokenizer(), "a \ud83d b")
    assert small.decode(encode_long(small, "a \ud83d b").tolist()) == "a \ufffd b"
    assert small.decode(encode_long(small, "\ud83d\ude42").tolist()) == "🙂"  # both halves


def test_by_size():
    assert len(ordinary(compact(OTHER, size=258))) == 258
    assert set(ordinary(compact(OTHER, size=258))) == {*BYTES, b"se", b" g"}
    assert set(ordinary(compact(OTHER, size=256))) == set(BYTES)
    assert set(ordinary(compact(OTHER, size=10_000))) == set(ordinary(OTHER))
    for size, missing in [(255, 1), (100, 156), (0, 256), (-1, 256)]:
        with pytest.raises(ValueError, match=f"{size} tokens leave {missing} of the 256"):
            compact(OTHER, size=size)
    with pytest.raises(ValueError, match="give one of the two"):
        compact(OTHER, "text", size=300)


def test_all_of_them():
    assert fingerprint(compact(load_tokenizer())) == fingerprint(load_tokenizer())
    assert set(ordinary(compact(OTHER))) == set(ordinary(OTHER))
    assert compact(OTHER).n_vocab == len(ordinary(OTHER)) + FIRST_WORD


# -- which it is ----------------------------------------------------------------------------------


def test_fingerprints():
    tokens = [*BYTES, b"ab", b"bc"]
    one = fingerprint(of_tokens(tokens, PATTERN))
    assert one == fingerprint(of_tokens(tokens, PATTERN)) and len(bytes.fromhex(one)) == 32
    others = [
        tokens[:-1],
        [*BYTES, b"bc", b"ab"],
        [*BYTES, b"ab", b"bd"],
        [*BYTES[::-1], b"ab", b"bc"],
        [*tokens, b"cd"],
    ]
    found = {one, *(fingerprint(of_tokens(other, PATTERN)) for other in others)}
    assert len(found) == 6
    renamed = tiktoken.Encoding(
        "other name",
        pat_str=PATTERN,
        mergeable_ranks=ordinary(of_tokens(tokens, PATTERN)),
        special_tokens={**{n: i for n, i in SPECIAL_TOKENS.items() if i}, "<padding>": 0},
    )
    assert fingerprint(renamed) != one  # another special token
    end = {"<end>": 9000}
    moved = [{token: i + shift for i, token in enumerate(tokens)} for shift in (0, 7)]
    encodings = [
        tiktoken.Encoding("", pat_str=PATTERN, mergeable_ranks=m, special_tokens=end) for m in moved
    ]
    assert len(set(map(fingerprint, encodings))) == 2  # the same tokens in the same order
    assert len({one, fingerprint(load_tokenizer()), fingerprint(OTHER)}) == 3


def test_ranks_are_saved_and_loaded(tmp_path):
    small = compact(load_tokenizer(), "Two geese.\n🙂")
    ranks = ordinary(small)
    save_ranks(tmp_path / "small.tiktoken", sorted(ranks, key=ranks.get))
    loaded = load_tokenizer(tmp_path / "small.tiktoken")
    assert fingerprint(loaded) == fingerprint(small) and loaded.n_vocab == small.n_vocab
    for text in ("Two geese.\n🙂", "Three swans"):
        assert loaded.encode_ordinary(text) == small.encode_ordinary(text)


# -- long texts -----------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(encodings, texts, st.integers(1, 12))
def test_parts_have_the_tokens_of_the_whole(encoding, text, part):
    """Where each stretch of ``part`` characters has a border; elsewhere the text survives."""
    text = as_utf8(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabulary, "PART", part)
        ids = encode_long(encoding, text)
        cuts = list(encode_parts(encoding, [text]))
    assert ids.dtype == torch.int64 and ids.dim() == 1
    assert ids.tolist() == [i for cut in cuts for i in cut]
    assert encoding.decode_bytes(ids.tolist()) == text.encode()
    assert all(len(encoding.decode_bytes(cut).decode(errors="ignore")) <= part for cut in cuts)
    if all(bordered(encoding.decode_bytes(cut), part) for cut in cuts[:-1]):
        assert ids.tolist() == encoding.encode_ordinary(text)


def bordered(cut, part):
    """Not cut because it was full (its characters are whole: cuts fall between them)."""
    return len(cut.decode()) < part


# How texts are cut into words by GPT-2, and by the encodings cl100k_base and o200k_base after it.
CL100K = (
    r"(?i:'(?:[sdmt]|ll|ve|re))|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
O200K = "|".join(
    [
        rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ]
)


@settings(max_examples=300, deadline=None)
@given(texts, st.sampled_from([PATTERN, CL100K, O200K]))
def test_no_word_crosses_a_border(text, pattern):
    text = "Ada's  geese" + as_utf8(text)
    borders = [i for i in range(1, len(text)) if BORDER.search(text, i, i + 1)]
    assert borders[0] == 5  # not before the apostrophe
    for i in borders:
        cut = regex.findall(pattern, text[:i]) + regex.findall(pattern, text[i:])
        assert cut == regex.findall(pattern, text)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from([" Two", " geese", ".", "\n", ", ", " Ada's", " 12", "中文。", "  x"]))
)
def test_words_are_never_cut(words):
    text = "".join(words)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabulary, "PART", 20)
        for encoding in (load_tokenizer(), OTHER):
            found = encode_long(encoding, text).tolist()
            if not any(len(stretch) > 10 for stretch in stretches(text)):
                assert found == encoding.encode_ordinary(text)


def stretches(text):
    """What lies between letters and digits: marks and spaces one behind the other."""
    return "".join(c if not c.isalnum() else "\0" for c in text).split("\0")


@given(texts, st.lists(st.integers(0, 40)), st.integers(1, 12))
def test_it_does_not_matter_how_a_text_comes(text, places, part):
    places = sorted({min(place, len(text)) for place in places} | {0, len(text)})
    parts = [text[a:b] for a, b in pairwise(places)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabulary, "PART", part)
        whole = encode_long(OTHER, text).tolist()
        assert [i for ids in encode_parts(OTHER, parts) for i in ids] == whole
        assert [i for ids in encode_parts(OTHER, list(text)) for i in ids] == whole


def test_empty_text():
    for ids in (encode_long(OTHER, ""), encode_long(OTHER, "x")[:0]):
        assert ids.shape == (0,) and ids.dtype == torch.int64


@pytest.mark.parametrize("unit", ["a", "1", " ", "\n", ".", "中", "🙂", "\u0301"])
def test_an_enormous_word(unit):
    text = unit * 150_000
    start = time.process_time()
    ids = encode_long(load_tokenizer(), text)
    assert time.process_time() - start < 20
    assert load_tokenizer().decode(ids.tolist()) == text


@pytest.mark.parametrize("words", [" 12", "中文。", "a\n", "x, ", " Ada's", "! "])
def test_a_long_text_with_borders(words):
    text = words * (150_000 // len(words))
    for encoding in (load_tokenizer(), OTHER):
        assert encode_long(encoding, text).tolist() == encoding.encode_ordinary(text)


# -- GPT-2 ----------------------------------------------------------------------------------------


@pytest.fixture
def gpt2(real_data):
    if not (real_data / "tiktoken").is_dir():
        pytest.skip(f"no GPT-2 vocabulary in {real_data}")
    return gpt2_tokenizer()


def test_gpt2(gpt2):
    gazette = Gazette.load()
    briefs = gazette.sample(200, torch.Generator().manual_seed(0))
    text = "\n".join(gazette.text(brief) for brief in briefs)
    small = compact(gpt2, text)
    assert pieces(small, text) == pieces(gpt2, text)
    assert small.n_vocab < 2000
    assert compact(gpt2).n_vocab == 50_256 + FIRST_WORD
    assert pieces(compact(gpt2), text) == pieces(gpt2, text)
    assert "<|endoftext|>" not in small.special_tokens_set
    many = text * (150_000 // len(text) + 1)
    assert encode_long(gpt2, many).tolist() == gpt2.encode_ordinary(many)


def test_the_rows_of_a_model_follow_their_tokens():
    old = load_tokenizer()
    new = compact(old, text="The mist came late.")
    model = tiny.gpt(vocab_size=old.n_vocab)
    rows, moved = model.wte.weight, with_vocabulary(model, old, new).wte.weight
    assert len(moved) == new.n_vocab < old.n_vocab
    for token, number in ordinary(new).items():
        assert torch.equal(moved[number], rows[old.encode_single_token(token)]), token
    torch.testing.assert_close(moved[:FIRST_WORD], rows.mean(0).expand(FIRST_WORD, -1))
