"""What several test files share."""

import brute
import pytest

from mylib.gazette import Gazette
from mylib.grammar import load_grammar


@pytest.fixture(scope="module")
def press(tmp_path_factory):
    """Prints a raw grammar: the Gazette read from its file, and the brute-force one."""
    path = tmp_path_factory.mktemp("press") / "paper.toml"

    def press(raw):
        path.write_text(brute.toml(raw), encoding="utf-8")
        gazette = Gazette(load_grammar(path))
        return gazette, brute.Brute(raw, gazette.vocab_size)

    return press
