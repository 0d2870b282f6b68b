"""`python -m mylib --help` is read in a shell."""

import pytest

from mylib.__main__ import COMMANDS, main


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_has_no_marks_of_a_docstring(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"] if command else ["--help"])
    out = capsys.readouterr().out
    assert "python -m mylib" in out and "``" not in out
