"""WikiText-2 is cut into articles, and nothing of it is lost."""

import hashlib

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mylib.datasets import CORPORA, Corpus, fetch, read_text, wikitext2
from mylib.datasets.wikitext import TITLE, articles

GEESE = " = Geese = \n \n Geese @-@ like = birds . \n \n = = Flight = = \n \n They fly . \n \n \n"
OWLS = " = Owls = that = hoot = \n \n = a formula = \n b = \n \n = = = = Deep = = = = \n \n \n"
BLANK = " \n"
LINES = [
    " \n",
    " = A = \n",
    " = = B = = \n",
    " x = y \n",
    " = x \n",
    " = = \n",
    " = = A = \n",
    "\n",
]


def test_articles_begin_at_titles_between_blank_lines():
    assert articles(BLANK + GEESE + OWLS + GEESE) == [BLANK + GEESE, OWLS, GEESE]
    before = "before\n" + BLANK
    assert articles(before + GEESE + OWLS) == [before + GEESE, OWLS]
    assert articles("no title") == ["no title"]


@pytest.mark.parametrize(
    "line", [" = = A = = ", " = A ", " A = ", " = A", "= A =", " = A = = ", " = = A = ", " A = B "]
)
def test_other_lines_are_no_titles(line):
    assert articles(f"{GEESE} \n{line}\n \n") == [f"{GEESE} \n{line}\n \n"]


@given(st.lists(st.sampled_from(LINES)).map("".join))
def test_joined_they_are_the_text(text):
    found = articles(text)
    assert "".join(found) == text
    assert all(TITLE.match(BLANK + article) for article in found[1:])
    assert all(len(TITLE.findall(BLANK + article)) <= 1 for article in found[1:])


def test_split_by_split(monkeypatch, tmp_path):
    monkeypatch.setenv("MYLIB_CACHE", str(tmp_path))
    for split, text in [("train", GEESE * 3), ("valid", OWLS), ("test", OWLS + GEESE)]:
        text = BLANK + text
        path = tmp_path / CORPORA[f"wikitext2-{split}"].path
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text.encode())
        found = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
        entry = Corpus(f"wikitext-2/{split}.txt", "https://nowhere.invalid/", found, len(text))
        monkeypatch.setitem(CORPORA, f"wikitext2-{split}", entry)
    assert wikitext2("train") == [BLANK + GEESE, GEESE, GEESE]
    assert wikitext2("valid") == [BLANK + OWLS] and wikitext2("test") == [BLANK + OWLS, GEESE]
    for split in ("validation", "Train", "", None):
        with pytest.raises(ValueError, match=f"the splits train, valid, test, got {split!r}"):
            wikitext2(split)


def test_without_cache_and_network(monkeypatch, tmp_path):
    monkeypatch.setenv("MYLIB_CACHE", str(tmp_path))
    with pytest.raises(ConnectionError, match="wikitext2-train is not in the cache"):
        wikitext2("train")


@pytest.mark.parametrize(
    ("split", "size", "words", "first", "last"),
    [
        ("valid", 1_121_681, 217_646, " = Homarus gammarus = ", " = <unk> <unk> = "),
        ("test", 1_256_449, 245_569, " = Robert <unk> = ", " = The <unk> ( film ) = "),
    ],
)
def test_the_real_files(real_data, split, size, words, first, last):
    if not (real_data / CORPORA[f"wikitext2-{split}"].path).exists():
        pytest.skip(f"no WikiText-2 in {real_data}")
    found = wikitext2(split)
    text = read_text(fetch(f"wikitext2-{split}"))
    assert len(found) == 60 and "".join(found) == text
    assert CORPORA[f"wikitext2-{split}"].size == len(text.encode()) == size
    assert len(text.split()) + text.count("\n") == words  # as the paper counts them
    assert all(article.startswith(" = ") for article in found[1:])
    assert found[0].split("\n")[1] == first and found[-1].split("\n")[0] == last
    # Two lines of a formula and two of a table begin like titles.
    like = [line for line in text.split("\n") if line.startswith(" = ") and line[3] != "="]
    assert len(like) == 60 + {"valid": 0, "test": 4}[split]
