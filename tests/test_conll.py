"""Column files: read as they are, or refused with file and line."""

import codecs
import hashlib
from dataclasses import FrozenInstanceError

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mylib.datasets import CORPORA, Corpus, Sentence, fetch, read_conll, wnut17
from mylib.metrics import entities, entity_f1

TWO = [Sentence(("Ada", "wrote"), ("B-PER", "O")), Sentence(("She",), ("O",))]


@pytest.fixture
def written(tmp_path):
    """A file of these bytes, or of this text as it is."""

    def write(content):
        path = tmp_path / "some.conll"
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return path

    return write


# -- what is read ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "Ada\tB-PER\nwrote\tO\n\nShe\tO\n\n",
        "Ada\tB-PER\nwrote\tO\n\nShe\tO\n",  # the last sentence without a blank line
        "Ada\tB-PER\nwrote\tO\n\nShe\tO",
        "Ada\tB-PER\nwrote\tO\n\t\nShe\tO\n\t\n",  # as in WNUT-17's train file
        "Ada\tB-PER\nwrote\tO\n \t  \nShe\tO\n",
        "\n\n\nAda\tB-PER\nwrote\tO\n\n\n\nShe\tO\n\n\n",
        "Ada\tB-PER\r\nwrote\tO\r\n\r\nShe\tO\r\n",
        "\ufeffAda\tB-PER\nwrote\tO\n\nShe\tO\n",
        "Ada B-PER\nwrote O\n\nShe O\n",
        "Ada    B-PER\nwrote  O \n\t\nShe    O\n",  # aligned with spaces; the blank line has a tab
        "-DOCSTART- -X-\n\nAda B-PER\nwrote O\n\n-DOCSTART- -X-\n\nShe O\n",
        "-DOCSTART-\tO\nAda\tB-PER\nwrote\tO\n-DOCSTART-\nShe\tO\n",  # it ends a sentence
        "-DOCSTART-\t-X-\tO\nAda B-PER\nwrote O\n\nShe O\n",  # and says nothing of the columns
    ],
)
def test_two_sentences(written, text):
    assert read_conll(written(text)) == TWO
    assert read_conll(str(written(text))) == TWO


def test_the_column_of_the_tags(written):
    path = written("U.N. NNP I-NP I-ORG\nofficial NN I-NP O\n\nleft VBD I-VP O\n")
    assert [s.tags for s in read_conll(path)] == [("I-ORG", "O"), ("O",)]
    assert [s.tags for s in read_conll(path, tag_column=2)] == [("I-NP", "I-NP"), ("I-VP",)]
    assert read_conll(path, tag_column=2) == read_conll(path, tag_column=-2)
    assert [s.words for s in read_conll(path)] == [("U.N.", "official"), ("left",)]
    for column in (0, -4, 4, -5):
        with pytest.raises(ValueError, match=rf"line 1: no tags in column {column} of 4"):
            read_conll(path, tag_column=column)
    with pytest.raises(ValueError, match="line 1: tag 'NNP', expected O, B-x or I-x"):
        read_conll(path, tag_column=1)


def test_words_are_left_alone(written):
    odd = ["#", "# 1", "-DOCSTART-2", "a\u00a0b", "\u2028", "\x85", "x\x0b\x0c\x1cy", "\u3000", "é"]
    odd += ["e\u0301", "Dubbz\ufeff", "\u200b", "🦢", "a b", '"']
    path = written("".join(f"{word}\tO\n" for word in odd))
    assert read_conll(path) == [Sentence(tuple(odd), ("O",) * len(odd))]
    spaced = written("a\u00a0b O\n\u3000 B-x\n\x85 O\n")
    assert read_conll(spaced) == [Sentence(("a\u00a0b", "\u3000", "\x85"), ("O", "B-x", "O"))]


words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\n"), min_size=1)
kinds = st.text(st.sampled_from("abcXYZ-é"), min_size=1, max_size=5)
tags = st.just("O") | st.builds(
    lambda begin, kind: begin + kind, st.sampled_from(("B-", "I-")), kinds
)
sentences = st.lists(
    st.lists(st.tuples(words, tags), min_size=1, max_size=5).map(
        lambda pairs: Sentence(*zip(*pairs, strict=True))
    ),
    min_size=1,
    max_size=5,
)


@given(
    sentences,
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["", "\t", " "]),
    st.booleans(),
    st.sampled_from([b"", codecs.BOM_UTF8]),
)
def test_what_is_written_is_read(tmp_path_factory, made, end, blank, closed, mark):
    first = made[0].words[0]
    if first.startswith("\ufeff") and not mark:
        mark = codecs.BOM_UTF8  # one mark is taken away
    blocks = [
        end.join(f"{word}\tx\t{tag}" for word, tag in zip(s.words, s.tags, strict=True))
        for s in made
    ]
    text = (end + blank + end).join(blocks) + (end + blank + end if closed else "")
    path = tmp_path_factory.getbasetemp() / "round.conll"
    path.write_bytes(mark + text.encode("utf-8"))
    assert read_conll(path) == made


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"Ada\tO\nNa\xefve\tO\n", r"line 2: not UTF-8 text: invalid continuation byte"),
        (b"\xef\xbb\xbfAda\tO\n\n\xff\tO\n", r"line 3: not UTF-8 text"),
        ("Ada\tO\n\nShe\n", r"line 3: one column, expected a word and a tag, in 'She'"),
        ("Ada\nShe\n", r"line 1: one column"),
        ("Ada O\n O\n", r"line 2: one column"),
        ("Ada\tO\n\u00a0\nShe\tO\n", r"line 2: one column"),  # not blank: a word without a tag
        ("Ada\tO\nShe\tPRP\tO\n", r"line 2: 3 columns, but 2 in the first filled line"),
        ("Ada\tNNP\tO\nShe\tO\n", r"line 2: 2 columns, but 3"),
        ("Ada\tO\nShe said\n", r"line 2: one column"),  # one tab anywhere: tabs separate
        ("Ada\tO\n\tO\n", r"line 2: an empty word"),
        ("Ada\tO\nShe\tB\n", r"line 2: tag 'B', expected O, B-x or I-x, in 'She\\tB'"),
        ("Ada\tB-\n", r"line 1: tag 'B-'"),
        ("Ada\tE-PER\n", r"line 1: tag 'E-PER'"),
        ("Ada\tO\t\n", r"line 1: tag ''"),
        ("Ada\tO \n", r"line 1: tag 'O '"),
    ],
)
def test_lines_that_are_refused(written, content, says):
    with pytest.raises(ValueError, match=r"some\.conll, " + says):
        read_conll(written(content))


@pytest.mark.parametrize("content", ["", "\n", "\ufeff", "\t\n \n\r\n", "-DOCSTART- -X- O\n\n"])
def test_files_without_sentences(written, content):
    with pytest.raises(ValueError, match=r"no sentences in .*some\.conll"):
        read_conll(written(content))


def test_no_file(tmp_path):
    for path in (tmp_path / "nowhere.conll", tmp_path):
        with pytest.raises(FileNotFoundError, match=rf"no file {path}$"):
            read_conll(path)


def test_sentences():
    with pytest.raises(ValueError, match="2 words with 1 tags"):
        Sentence(("a", "b"), ("O",))
    with pytest.raises(FrozenInstanceError):
        TWO[0].words = ()
    assert len({*TWO, Sentence(("She",), ("O",))}) == 2


# -- WNUT-17 --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("split", "sentences", "words", "found"),
    [("train", 3394, 62730, 1975), ("dev", 1009, 15733, 836), ("test", 1287, 23394, 1079)],
)
def test_wnut17(real_data, split, sentences, words, found):
    if not (real_data / CORPORA[f"wnut17-{split}"][0]).exists():
        pytest.skip(f"no WNUT-17 in {real_data}")
    read = wnut17(split)
    assert len(read) == sentences
    assert sum(len(sentence.words) for sentence in read) == words
    assert sum(len(entities(sentence.tags)) for sentence in read) == found
    tags = [tag for sentence in read for tag in sentence.tags]
    kinds = {"person", "location", "group", "corporation", "product", "creative-work"}
    assert set(tags) == {"O"} | {f"{begin}-{kind}" for begin in "BI" for kind in kinds}
    assert entity_f1([tags], [tags]).f1 == 1.0


def test_wnut17_first_sentence(real_data):
    if not (real_data / CORPORA["wnut17-train"][0]).exists():
        pytest.skip(f"no WNUT-17 in {real_data}")
    first = wnut17("train")[0]
    assert first.words[:3] == ("@paulwalk", "It", "'s")
    assert entities(first.tags)[0] == ("location", 14, 16)


def test_wnut17_names_and_addresses(monkeypatch, tmp_path):
    places = {}
    for split, name in [
        ("train", "wnut17train.conll"),
        ("dev", "emerging.dev.conll"),
        ("test", "emerging.test.annotated"),
    ]:
        below, address, *_ = CORPORA[f"wnut17-{split}"]
        assert below == f"wnut17/{name}"
        assert address == (
            "https://raw.githubusercontent.com/leondz/emerging_entities_17/"
            f"e52a2d2a71ac1a051ca2d532eef28653c5c02603/{name}"
        )
        content = f"{split}\tO\n".encode()
        (tmp_path / below).parent.mkdir(exist_ok=True)
        (tmp_path / below).write_bytes(content)
        found = f"sha256:{hashlib.sha256(content).hexdigest()}"
        places[f"wnut17-{split}"] = Corpus(below, address, found, len(content))
    monkeypatch.setenv("MYLIB_CACHE", str(tmp_path))
    for name, entry in places.items():
        monkeypatch.setitem(CORPORA, name, entry)
    for split in ("train", "dev", "test"):
        assert wnut17(split) == [Sentence((split,), ("O",))]
    for split in ("validation", "Train", "", None):
        with pytest.raises(ValueError, match=f"the splits train, dev, test, got {split!r}"):
            wnut17(split)


def test_wnut17_without_cache_and_network(monkeypatch, tmp_path):
    monkeypatch.setenv("MYLIB_CACHE", str(tmp_path))
    with pytest.raises(ConnectionError, match="wnut17-dev is not in the cache"):
        wnut17("dev")
    with pytest.raises(ConnectionError, match="wnut17-test is not in the cache"):
        fetch("wnut17-test")
