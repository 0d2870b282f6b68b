"""Every word of both editions is one token, every other text survives, and no ranks are stale."""

import base64
import os
from itertools import pairwise
from pathlib import Path

import hypothesis.strategies as st
import pytest
import tiktoken.registry
from hypothesis import given, settings

from mylib import tokenizer
from mylib.files import data_path
from mylib.grammar import load_grammar
from mylib.tokenizer import (
    FIRST_WORD,
    SPECIAL_TOKENS,
    decode,
    encode,
    gpt2_tokenizer,
    lexicon,
    load_tokenizer,
    offsets,
    pretokens,
    spans,
    words,
)

BRIEF = "Every effort moves you forward. I can't sleep at night;"
texts = st.one_of(
    st.text(),
    st.lists(
        st.sampled_from(
            [*BRIEF.split(" "), " ", "  ", "\n", "é", "🙂", "<pad>", "[MASK]", "ſ", "0"]
        )
    ).map(" ".join),
)


@pytest.fixture(scope="module")
def units():
    editions = [load_grammar(data_path(name)) for name in ("gazette-small.toml", "gazette.toml")]
    return {unit for edition in editions for unit in edition.units()}


def pieces():
    encoding = load_tokenizer()
    return [encoding.decode_single_token_bytes(i) for i in range(encoding.n_vocab)]


def test_the_lexicon_is_the_words_of_both_editions(units):
    ids = lexicon()
    assert ids.start == FIRST_WORD == len(SPECIAL_TOKENS) and ids.step == 1
    assert {pieces()[i].decode() for i in ids} == units
    assert len(ids) == len(units)


def test_behind_the_lexicon_stand_every_byte_and_at_most_300_merges():
    rest = pieces()[lexicon().stop :]
    single = [piece for piece in pieces()[FIRST_WORD:] if len(piece) == 1]
    assert sorted(single) == [bytes([i]) for i in range(256)]
    assert 0 < len([piece for piece in rest if len(piece) > 1]) <= 300
    assert len(set(pieces())) == load_tokenizer().n_vocab


def test_special_tokens_have_ids_of_their_own():
    encoding = load_tokenizer()
    assert sorted(SPECIAL_TOKENS.values()) == list(range(FIRST_WORD))
    assert [encoding.encode_single_token(name) for name in SPECIAL_TOKENS] == list(
        range(FIRST_WORD)
    )


def test_a_word_is_one_token_at_the_start_and_inside(units):
    for unit in units:
        if unit.startswith(" "):
            (alone,) = encode(unit[1:])
            assert encode(f"red {unit[1:]}")[1:] == [alone]
        assert pretokens(unit) == [unit]
        assert len(load_tokenizer().encode_ordinary(unit)) == 1
    assert len(encode(BRIEF)) == len(pretokens(" " + BRIEF)) == 13


@given(texts)
@settings(max_examples=150, deadline=None)
def test_any_text_comes_back(text):
    ids = encode(text)
    assert decode(ids) == text
    assert all(FIRST_WORD <= i < load_tokenizer().n_vocab for i in ids)  # never a special token
    assert "".join(pretokens(text)) == text


@given(texts)
@settings(max_examples=150, deadline=None)
def test_offsets_give_the_substring(text):
    ids, found = encode(text), offsets(text)
    assert len(found) == len(ids)
    for id, (start, stop) in zip(ids, found, strict=True):
        assert 0 <= start <= stop <= len(text)
        piece = pieces_of[id]
        bare = piece[1:] if piece[:1] == b" " and len(piece) > 1 else piece
        here = text[start:stop].encode()
        whole = here == bare or (bare == b" " and here == b"")  # the space that `encode` adds
        assert whole or (bare in here and stop - start <= len(bare))  # parts of one character
    assert all(a[0] <= b[0] and a[1] <= b[1] for a, b in pairwise(found))
    covered = {i for start, stop in found for i in range(start, stop)}
    assert all(i in covered or text[i] == " " for i in range(len(text)))


pieces_of = pieces()


def test_offsets_of_a_brief():
    text = "Ada can't 🙂."
    spelled = [text[start:stop] for start, stop in offsets(text)]
    assert spelled[:3] == ["Ada", "can", "'t"] and spelled[-1] == "." and spelled[-2] == "🙂"


def test_words_and_specials_are_printable():
    ids = [1, *encode("Every effort."), 2, 0]
    assert words(ids) == ["<bos>", "Every", "effort", ".", "<eos>", "<pad>"]
    assert decode(ids) == "Every effort."
    assert decode(ids, special=True) == "<bos> Every effort.<eos><pad>"
    assert words(encode("🙂"))[-1].startswith("\\x")  # a byte, as a figure can show it


# -- ranks files ----------------------------------------------------------------------------------


def ranks(path, *more):
    """A ranks file: `more`, then all bytes."""
    path.parent.mkdir(exist_ok=True)
    tokens = [*(token.encode() for token in more), *(bytes([i]) for i in range(256))]
    lines = (
        f"{base64.b64encode(token).decode()} {FIRST_WORD + i}\n" for i, token in enumerate(tokens)
    )
    path.write_text("".join(lines))
    return path


def test_a_second_file_of_the_same_name_is_read(tmp_path):
    first = load_tokenizer(ranks(tmp_path / "a" / "gazette.tiktoken", " red"))
    second = load_tokenizer(ranks(tmp_path / "b" / "gazette.tiktoken", " blue", " red"))
    assert first.encode_ordinary(" red") == [FIRST_WORD]
    assert second.encode_ordinary(" red") == [FIRST_WORD + 1]
    assert (first.n_vocab, second.n_vocab) == (256 + 1 + FIRST_WORD, 256 + 2 + FIRST_WORD)


def test_a_changed_file_is_read_anew(tmp_path):
    path = ranks(tmp_path / "gazette.tiktoken", " red")
    before, stamp = load_tokenizer(path), path.stat()
    ranks(path, " tea")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # not even a new date
    assert load_tokenizer(path).encode_ordinary(" tea") == [FIRST_WORD]
    assert before.encode_ordinary(" red") == [FIRST_WORD]
    assert load_tokenizer(path) is load_tokenizer(str(path))


@pytest.mark.parametrize("content", ["no ranks\n", "aGk=\n", "aGk= x\n", "aGk= 6 7\n"])
def test_a_file_of_another_form_is_refused(tmp_path, content):
    path = tmp_path / "x.tiktoken"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"x\.tiktoken is not a ranks file"):
        load_tokenizer(path)


# -- GPT-2 ----------------------------------------------------------------------------------------


@pytest.fixture
def forgetful(monkeypatch):
    """tiktoken keeps what it has read; not in this test."""
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})


def test_gpt2_from_the_cache(real_data, forgetful, monkeypatch):
    if not (real_data / "tiktoken").is_dir():
        pytest.skip(f"no folder tiktoken in {real_data}: GPT-2's vocabulary is not cached")
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR")  # MYLIB_CACHE/tiktoken is then the place
    encoding = gpt2_tokenizer()
    assert "TIKTOKEN_CACHE_DIR" not in os.environ
    assert encoding.n_vocab == 50_257
    assert encoding.encode("Every effort moves you") == [6109, 3626, 6100, 345]
    assert encoding.decode(encoding.encode_ordinary("naïve 🙂")) == "naïve 🙂"
    text = "naïve 🙂 effort"
    last = spans(encoding, text)[-1]
    assert text[slice(*last)] == "effort"
    assert pretokens(BRIEF) == tokenizer.regex.findall(encoding._pat_str, BRIEF)


def test_the_string_mask_is_no_token_of_gpt2(real_data):
    """Chapter 04: `encode('[MASK]')[0]` is an opening bracket, not a token for holes."""
    if not (real_data / "tiktoken").is_dir():
        pytest.skip(f"no folder tiktoken in {real_data}: GPT-2's vocabulary is not cached")
    encoding = gpt2_tokenizer()
    ids = encoding.encode_ordinary("[MASK]")
    assert encoding.decode([ids[0]]) == "[" and len(ids) > 1
    assert encoding.encode_ordinary("[1]")[0] == ids[0]  # a real bracket looks like a hole


@pytest.mark.parametrize("variable", ["TIKTOKEN_CACHE_DIR", "MYLIB_CACHE"])
def test_gpt2_without_cache_and_network(forgetful, monkeypatch, tmp_path, variable):
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR")
    monkeypatch.setenv(variable, str(tmp_path))
    before = dict(os.environ)
    with pytest.raises(ConnectionError, match="GPT-2's vocabulary is not cached") as error:
        gpt2_tokenizer()
    folder = tmp_path / "tiktoken" if variable == "MYLIB_CACHE" else tmp_path
    assert f"({folder})" in str(error.value)
    assert (
        len(str(error.value)) < 700
        and error.value.__cause__ is None
        and error.value.__suppress_context__
    )
    assert dict(os.environ) == before
    assert not [path for path in Path(tmp_path).rglob("*") if path.is_file()]
