"""Every chapter keeps the rules of notebooks (tools/notebook_guard.py). No kernel is started here;
nbval runs the cells themselves, because pyproject.toml names notebooks/ among the test paths."""

import notebook_env
import notebook_guard
import pytest

NOTHING = pytest.param(None, marks=pytest.mark.skip(reason="no notebook in notebooks/ yet"))


@pytest.mark.parametrize(
    "path", notebook_env.notebooks() or [NOTHING], ids=lambda path: path.name if path else "none"
)
def test_chapter_keeps_the_rules(path):
    found = notebook_guard.problems(path.read_text(encoding="utf-8"))
    assert not found, f"{path.name} breaks the rules:\n  " + "\n  ".join(found)
