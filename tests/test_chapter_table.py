"""The README's table of chapters says what the notebooks and the last measured test run say."""

import json

import chapter_table
import notebook_env

SECONDS = json.loads(chapter_table.RESULTS.read_text())["seconds"]
MAIN, ALL = 10 * 60, 15 * 60  # what a learner is promised, in seconds


def test_the_table_is_up_to_date():
    text = chapter_table.README.read_text(encoding="utf-8")
    assert chapter_table.with_table(text, SECONDS) == text
    assert "(to be said)" not in text


def test_every_chapter_was_measured_and_keeps_its_budget():
    assert list(SECONDS) == [path.name for path in notebook_env.notebooks()]
    for path in notebook_env.notebooks():
        budget = json.loads(path.read_text())["metadata"]["mylib"]["budget_seconds"]
        assert 0 < SECONDS[path.name] <= budget, path.name


def test_the_course_keeps_its_promise():
    main = sum(seconds for name, seconds in SECONDS.items() if name[0] != "A")
    assert main <= MAIN, f"the main course took {main:.0f} s"
    assert sum(SECONDS.values()) <= ALL


def test_a_new_time_is_written():
    text = chapter_table.README.read_text(encoding="utf-8")
    changed = chapter_table.with_table(text, {name: 77.0 for name in SECONDS})
    assert changed != text and changed.count("| 77 s |") == len(SECONDS)
    assert len(changed.splitlines()) == len(text.splitlines())
