"""The ledger is true: its targets exist, its numbers are those of cells and of committed files."""

import csv
import json
import re
import tomllib
from pathlib import Path

import pytest

from mylib.ledger import Row, link, load_ledger, look_up

ROOT = Path(__file__).parents[1]
LEDGER = load_ledger()
TEXT = (ROOT / "data" / "ledger.toml").read_text()
CHAPTER = ROOT / "notebooks" / "12-your-own-regime.ipynb"
# A number as people write it: 45, 0.05, 1,000; not the digits inside a name (gpt2, 2x32, A1).
NUMBER = re.compile(r"(?<![\w.])(?<!GPT-)\d[\d,]*(?:\.\d+)?(?!\w)")
RAW = {raw["id"]: raw for raw in tomllib.loads(TEXT)["row"]}


def cells(name):
    """{cell id: (source, all that stands in it, outputs included)} of a notebook."""
    found = {}
    for cell in json.loads((ROOT / "notebooks" / name).read_text())["cells"]:
        texts = ["".join(cell["source"])]
        for output in cell.get("outputs", []):
            texts.append("".join(output.get("text", [])))
            texts.append("".join(output.get("data", {}).get("text/plain", [])))
        found[cell["id"]] = texts[0], "\n".join(texts)
    return found


def headings(name):
    """The headings of a notebook, without those of code fences."""
    notebook = json.loads((ROOT / "notebooks" / name).read_text())
    prose = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "markdown"]
    bare = re.sub(r"^```.*?^```", "", "\n\n".join(prose), flags=re.M | re.S)
    return [title.strip() for title in re.findall(r"^#+ (.+)$", bare, re.M)]


def evidence_text(target):
    """What stands at a target; `ValueError` where there is no such target."""
    file, _, name = target.partition("::")
    if file.startswith("data/"):
        return (ROOT / file).read_text()
    if file.endswith(".ipynb"):
        if name not in cells(file):
            raise ValueError(f"{file} has no cell {name}")
        return cells(file)[name][1]
    source = (ROOT / "tests" / file).read_text()
    if f"def {name}(" not in source:
        raise ValueError(f"{file} has no test {name}")
    return source


@pytest.mark.parametrize("row", LEDGER.rows, ids=lambda row: row.id)
def test_evidence_and_heading_exist(row):
    assert all(evidence_text(target) for target in row.evidence)
    assert row.heading in headings(row.chapter)
    assert any(target.startswith(row.chapter) for target in row.evidence)


def typed_numbers(row):
    """Numbers of ``measured`` that are written in the ledger, not looked up."""
    return NUMBER.findall(re.sub(r"\{\w+\}|arXiv:\S+", "", RAW[row.id]["measured"]))


def missing(numbers, row):
    """Those that stand in no cell of the row's evidence."""
    stand = set()
    for target in row.evidence:
        if target.split("::")[0].endswith(".ipynb"):
            stand |= set(NUMBER.findall(evidence_text(target)))
    plain = {number.replace(",", "") for number in stand}
    return [n for n in numbers if n.replace(",", "").rstrip(".") not in plain]


@pytest.mark.parametrize("row", LEDGER.rows, ids=lambda row: row.id)
def test_typed_numbers_stand_in_the_cells(row):
    assert not missing(typed_numbers(row), row)


def test_a_number_that_stands_nowhere_is_found_out():
    (row,) = [row for row in LEDGER.rows if row.id == "remaining-tokens"]
    assert typed_numbers(row) == ["16.6", "24.8"]
    assert missing(["16.6", "17.6"], row) == ["17.6"]


def test_rows_that_rest_on_results_look_their_numbers_up():
    for row in LEDGER.rows:
        for spec in RAW[row.id].get("numbers", {}).values():
            assert spec["file"] in row.evidence, f"{row.id}: {spec['file']} is no evidence"


def test_looked_up_numbers_are_those_of_the_files():
    """Three of them by hand, one of each form."""
    rows = {row.id: row for row in LEDGER.rows}
    with open(ROOT / "data/results/samplers_proofreader.csv") as file:
        setting = ("random", "Passes(passes=8)", "none")
        tried = [
            r for r in csv.DictReader(file) if (r["order"], r["budget"], r["revise"]) == setting
        ]
    valid = [float(row["valid"]) for row in tried if row["budget"] == "Passes(passes=8)"]
    assert len(valid) == 3
    assert f"{sum(valid) / 3:.2f} of the pages valid" in rows["corrects-others"].measured
    gap = json.loads((ROOT / "data/checkpoints/diffusion.json").read_text())["gap_share"]
    assert f"{100 * gap:.1f} % above" in rows["a-distribution"].measured
    spec = dict(file="data/results/questions.csv", column="em", how="mean")
    side = [look_up(spec | {"where": dict(right="1.0", reader=who)}) for who in ("open", "causal")]
    assert f"{100 * (side[0] - side[1]):.0f} with all of it" in rows["lower-performance"].measured


def test_chapter_titles_are_those_of_the_notebooks():
    for name, title in LEDGER.chapters.items():
        assert headings(name)[0] == title
    assert {row.chapter for row in LEDGER.rows} == set(LEDGER.chapters)


def test_three_successes_are_marked_and_each_note_has_its_due():
    marked = [row for row in LEDGER.rows if row.headline]
    assert [row.note for row in marked] == [2, 3, 4]
    assert all(row.verdict.startswith("holds") for row in marked)
    assert all(note["right"] for note in LEDGER.notes.values())


def test_every_verdict_is_used_and_every_version_given():
    assert {row.verdict for row in LEDGER.rows} == set(LEDGER.verdicts)
    assert all(row.version or row.verdict == "holds" for row in LEDGER.rows)


def broken(old, new, tmp_path):
    assert TEXT.count(old) >= 1
    path = tmp_path / "ledger.toml"
    path.write_text(TEXT.replace(old, new, 1))
    with pytest.raises(ValueError) as caught:
        load_ledger(path)
    return str(caught.value)


@pytest.mark.parametrize(
    "old, new, said",
    [
        ('verdict = "holds"\n', 'verdict = "true"\n', "row 'causal-buffer': verdict: 'true'"),
        ("note = 1\n", "note = 5\n", "row 'causal-buffer': note: 5"),
        ('id = "start-token"', 'id = "causal-buffer"', "row 'causal-buffer': id: used twice"),
        ('says = "torch.triu', 'sais = "torch.triu', "row 'causal-buffer': says: missing"),
        ('id = "causal-buffer"', 'id = "causal-buffer"\ncolour = "red"', "colour: no field"),
        ("{without}", "0.26", "numbers: ['with', 'without'], measured has ['with']"),
        ('where = { text = "shakespeare"', 'where = { text = "verse"', "0 rows of data/results"),
        ('key = "gap_share"', 'key = "gap_part"', "row 'a-distribution': numbers: 'gap_part'"),
        ('chapter = "01-', 'chapter = "91-', "is not in [chapters]"),
        ('version = "Output i', 'headline = false # "Output i', "version: needed where"),
    ],
)
def test_a_wrong_file_is_refused_by_row_and_field(old, new, said, tmp_path):
    assert said in broken(old, new, tmp_path)


def test_links_are_headings_with_hyphens():
    row = Row("x", 1, "", "", "", "02-leakage.ipynb", "Can an answer reach its question?", [])
    assert "%" not in "".join(map(link, LEDGER.rows))  # nothing that has to be escaped
    assert link(row) == "02-leakage.ipynb#Can-an-answer-reach-its-question?"


def test_the_table_says_its_verdict_in_words_and_hides_nothing():
    html = LEDGER.table()._repr_html_()
    assert html.count("<tr>") == len(LEDGER.rows) + len(LEDGER.notes)  # heads included
    for row in LEDGER.rows:
        assert f"<b>{row.verdict}</b>" in html and link(row) in html
    assert "color" not in html and "<script" not in html and "**" not in html
    assert repr(LEDGER.table(2)) == "Ledger: 15 rows of note 2"
    with pytest.raises(ValueError, match="a note is one of"):
        LEDGER.table(7)


def test_counts_add_up():
    lines = LEDGER.counts().splitlines()
    numbers = [[int(n) for n in re.findall(r"\d+", line)] for line in lines[1:]]
    assert numbers[-1][-1] == len(LEDGER.rows) == sum(numbers[-1][:-1])
    assert [sum(column) for column in zip(*numbers[:-1], strict=True)] == numbers[-1]


def test_the_chapter_shows_the_ledger_from_code():
    found = cells(CHAPTER)  # an absolute path stays as it is
    assert "load_ledger()" in found["ledger-counts"][0]
    assert LEDGER.counts() in found["ledger-counts"][1]
    assert "ledger.table()" in found["ledger-table"][0]
