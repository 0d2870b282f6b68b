"""Files are replaced whole or not at all, and killed runs leave nothing for ever."""

import os
import subprocess
import sys

import pytest

from mylib.files import data_path, replacing


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / "results" / "file.txt"
    with replacing(target) as aside:
        aside.write_text("old")
        assert not target.exists()
    assert target.read_text() == "old"
    with pytest.raises(RuntimeError), replacing(target) as aside:
        aside.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [p.name for p in target.parent.iterdir()] == ["file.txt"]


@pytest.mark.skipif(os.name != "posix", reason="processes are asked by signal 0")
def test_parts_of_dead_processes_are_swept_and_of_living_ones_kept(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    stale = tmp_path / f".file.txt.{dead.pid}.part"
    living = tmp_path / f".file.txt.{os.getppid()}.part"
    other = tmp_path / ".file.txt.notes.part"
    for part in (stale, living, other):
        part.write_text("half")
    with replacing(tmp_path / "file.txt") as aside:
        aside.write_text("new")
    assert not stale.exists() and living.exists() and other.exists()


def test_missing_data_names_the_places():
    with pytest.raises(FileNotFoundError, match="looked for"):
        data_path("no-such-file")
