"""The lists at the end of chapter 12: bibliography, threads, glossary and notation are complete and
say what the chapters say.
"""

import ast
import json
import re
from pathlib import Path

import pytest

from mylib.tokenizer import FIRST_WORD, SPECIAL_TOKENS

ROOT = Path(__file__).parents[1]
CHAPTER = ROOT / "notebooks" / "12-your-own-regime.ipynb"
ARXIV = re.compile(r"arXiv:(\d{4}\.\d{5})")
# "A title of three words or more", or the same in single stars.
WORDS = r"[A-Z](?:[^{0}\n ]+ ){{2,}}[^{0}\n]+"
TITLE = re.compile(rf'(?<=[ (])(?:"({WORDS.format(chr(34))})"|\*({WORDS.format("*")})\*)')


def plain(text):
    """Without line breaks, marks and capitals, so that titles can be compared."""
    text = re.sub(r"\s+", " ", text.replace("**", "")).lower()
    return text.replace("’", "'").strip(" .,")


def prose(path, but=()):
    """The markdown of a notebook, without the cells named in ``but``."""
    cells = [c for c in json.loads(path.read_text())["cells"] if c["id"] not in but]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def docstrings():
    """All docstrings of the package, and the comments that name a source."""
    found = []
    for path in sorted((ROOT / "mylib").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            kinds = ast.Module | ast.ClassDef | ast.FunctionDef
            if isinstance(node, kinds) and (text := ast.get_docstring(node)):
                found.append(text)
    return "\n\n".join(found)


OTHERS = {p.name.split("-")[0]: prose(p) for p in (ROOT / "notebooks").glob("*.ipynb")}
OTHERS |= {"mylib": docstrings(), "12": (ROOT / "data" / "ledger.toml").read_text()}
if CHAPTER.exists():  # without the lists themselves
    OTHERS["12"] += prose(CHAPTER, but=("bibliography", "bibliography-threads"))


@pytest.fixture(scope="module")
def lists():
    """The cells of chapter 12 that hold the lists, by id."""
    return {c["id"]: "".join(c["source"]) for c in json.loads(CHAPTER.read_text())["cells"]}


@pytest.fixture(scope="module")
def entries(lists):
    """Title -> (arXiv number or None, places that cite it, first author, year)."""
    lines = re.findall(r"^\* .+$", lists["bibliography"], re.M)
    number = r"(?: arXiv:(\d{4}\.\d{5}).*?\.)?"
    form = re.compile(rf'\* ([^ ,(]+).*? \((\d{{4}})\)\. "(.+)"\.{number} Cited in: (.+)')
    found = {}
    for line in lines:
        match = form.fullmatch(line)
        assert match, f"not an entry: {line}"
        author, year, title, number, places = match.groups()
        assert title not in found, f"twice: {title}"
        found[title] = number, places.split(", "), author, year
    names = [re.match(r"\* ([^ ,(]+)", line)[1].lower() for line in lines]
    assert names == sorted(names), "not in alphabetical order"
    return found


def test_every_arxiv_number_is_in_the_bibliography(entries):
    listed = {number for number, *_ in entries.values() if number}
    cited = {number for text in OTHERS.values() for number in ARXIV.findall(text)}
    assert cited == listed, f"not listed: {cited - listed}; cited nowhere: {listed - cited}"


def test_every_entry_is_cited_where_it_says(entries):
    for title, (number, places, author, year) in entries.items():
        short = plain(title).split(": ")[0]
        for place in places:
            text = OTHERS[place]
            here = number and number in ARXIV.findall(text)
            here = here or short in plain(text) or re.search(rf"{author}\b[^.]*{year}", text)
            assert here, f"{place} does not cite {title}"
        if number:
            everywhere = {place for place, text in OTHERS.items() if f"arXiv:{number}" in text}
            assert everywhere <= set(places), f"{title}: also cited in {everywhere - set(places)}"


def named_title(text, number):
    """The title that a text gives to an arXiv number, if it gives one."""
    before = text[: text.index(f"arXiv:{number}")]
    before = before[before.rfind("arXiv:") + 1 :][-260:]
    titles = [a or b for a, b in TITLE.findall(before)]
    return titles[-1] if titles else None


def test_titles_are_those_of_the_chapters(entries):
    compared = 0
    for title, (number, places, *_) in entries.items():
        for place in places if number else ():
            text = re.sub(r"[ \t]*\n[ \t]*", " ", OTHERS[place])
            if place != "12" and f"arXiv:{number}" in text and (named := named_title(text, number)):
                assert plain(title).startswith(plain(named)), f"{place}: {named!r}, not {title!r}"
                compared += 1
    assert compared > 12


def test_every_dated_title_of_the_texts_is_listed(entries):
    """A quoted title with a year behind it, in prose or docstring, is an entry."""
    titles = [plain(title) for title in entries]
    dated = re.compile(r'"([A-Z][^"]{14,}?),?" (?:\(|\([^)]*?, )?(?:19|20)\d\d\)')
    found = set()
    for place, text in OTHERS.items():
        found |= {(place, plain(t)) for t in dated.findall(re.sub(r"\s+", " ", text))}
    assert len(found) > 20
    lost = {(place, t) for place, t in found if not any(known.startswith(t) for known in titles)}
    assert not lost


def threads(lists):
    return re.findall(r"^\| (\S.*?) \| (.+?) \| ([\w, ]+) \|$", lists["bibliography-threads"], re.M)


def test_threads_stand_in_their_chapters(lists):
    rows = threads(lists)[1:]
    assert len(rows) > 40
    for project, what, places in rows:
        for place in places.split(", "):
            text = OTHERS[place]
            for number in re.findall(r"(?<![\w.])\d+(?![\w.])", what.split(",  on ")[0]):
                assert re.search(rf"(?<!\d){number}(?!\d)", text), f"{place}: {project} {number}"
            for name in re.findall(r"`([^`]+)`", what):
                assert name in text, f"{place}: {name}"


def test_every_linked_project_is_in_the_list(lists):
    listed = {project.lower() for project, _, _ in threads(lists)}
    for place, text in OTHERS.items():
        if place in ("mylib", "12"):
            continue
        for owner, name, number in re.findall(
            r"https://github\.com/([\w-]+)/([\w.-]+)(?:/(?:issues|pull)/(\d+))?", text
        ):
            project = f"{owner}/{name}".lower()
            assert project in listed, f"{place} links {owner}/{name}"
            rows = [r for r in threads(lists) if r[0].lower() == project and place in r[2]]
            assert not number or any(number in what for _, what, _ in rows), f"{place}: {number}"


def test_the_glossary_is_sorted_and_each_word_stands_in_its_chapter(lists):
    rows = re.findall(r"^\| (.+?) \| (.+?) \| \[(\w+)\]\((.+?)\) \|$", lists["glossary"], re.M)
    assert 40 <= len(rows) <= 70
    words = [word.lower() for word, *_ in rows]
    assert words == sorted(set(words))
    for word, _, number, file in rows:
        assert file.startswith(number) and (ROOT / "notebooks" / file).exists()
        text = plain((ROOT / "notebooks" / file).read_text())
        stem = plain(word).split(",")[0]
        assert stem in text or stem.rstrip("s") in text, f"{number} does not say {word!r}"


def test_the_notation_has_the_tokenizer_s_tokens(lists):
    rows = re.findall(r"^\| (\d) \| `(.+?)` \|", lists["notation"], re.M)
    assert {name: int(number) for number, name in rows} == SPECIAL_TOKENS
    assert f"Words begin at id {FIRST_WORD}." in lists["notation"]
