"""Files are replaced whole or not at all, and killed runs leave nothing for ever."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mylib.files import data_path, replacing


def test_data_path():
    assert data_path("gazette.toml").is_file()
    with pytest.raises(FileNotFoundError, match=r"no-such\.toml is not among .*data/no-such\.toml"):
        data_path("no-such.toml")


def test_replacing_takes_the_place_at_the_end(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with replacing(path) as aside:
        aside.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one"
    with replacing(str(path)) as aside:
        aside.write_text("two")
        assert path.read_text() == "one"
    assert path.read_text() == "two" and os.listdir(path.parent) == ["a.txt"]


def test_replacing_keeps_the_old_file_after_an_error(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one")
    with pytest.raises(KeyboardInterrupt), replacing(path) as aside:
        aside.write_text("half of tw")
        raise KeyboardInterrupt
    assert path.read_text() == "one" and os.listdir(tmp_path) == ["a.txt"]
    with pytest.raises(FileNotFoundError), replacing(path):
        pass  # nothing was written
    assert path.read_text() == "one"


def test_replacing_takes_back_the_folders_that_it_made(tmp_path):
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "new" / "er" / "a.txt") as aside:
        aside.write_text("half")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "new" / "er" / "a.txt"):
        (tmp_path / "new" / "b.txt").write_text("somebody else's")
    assert os.listdir(tmp_path) == ["new"] and os.listdir(tmp_path / "new") == ["b.txt"]


def test_replacing_makes_the_folder_anew_where_another_run_took_it_back(tmp_path, monkeypatch):
    path, touch = tmp_path / "new" / "a.txt", Path.touch

    def robbed(aside, *args, **kwargs):
        monkeypatch.setattr(Path, "touch", touch)
        aside.parent.rmdir()  # between our mkdir and our first file
        touch(aside, *args, **kwargs)

    monkeypatch.setattr(Path, "touch", robbed)
    with replacing(path) as aside:
        aside.write_text("one")
    assert path.read_text() == "one"


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


def test_a_replaced_file_has_the_usual_rights(tmp_path):

    import torch
    from safetensors.torch import save_file

    (tmp_path / "plain").write_text("x")
    with replacing(tmp_path / "tensors") as aside:
        save_file({"x": torch.zeros(1)}, aside)
    assert os.stat(tmp_path / "tensors").st_mode == os.stat(tmp_path / "plain").st_mode
