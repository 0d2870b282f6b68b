"""Whatever goes wrong while a file is written, the one that was saved stands, and words say why.

The writers and the faults are in `tests/faults`; `tests/faults/run.py` kills them at random
moments and fills real disks, and `tests/faults/results.csv` says what was run by hand.
"""

import csv
import errno
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mylib import files
from mylib.checkpoints import History, save_run
from mylib.commands import train
from mylib.experiments.results import Table
from mylib.tokenizer import load_tokenizer
from mylib.vocabulary import compact

FAULTS = Path(__file__).parent / "faults"
sys.path.insert(0, str(FAULTS))

from disks import room  # noqa: E402
from writers import SETTINGS, WRITERS, left, network, table  # noqa: E402

posix = pytest.mark.skipif(os.name != "posix", reason="limits and signals of another system")


@posix
@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_is_full_at_some_byte(name, tmp_path):
    """The next version at every eighth of the file: the version before it stands, nothing else."""
    writer = WRITERS[name]
    writer.write(tmp_path, 3)
    before = sorted(os.listdir(tmp_path))
    size = (tmp_path / writer.name).stat().st_size
    for place in range(8):
        with pytest.raises(OSError) as error, room(size * place // 8):
            writer.write(tmp_path, 4)
        assert error.value.errno == errno.EFBIG, error.value
        assert writer.name in str(error.value) and ".part" not in str(error.value)
        assert writer.version(tmp_path) == 3 and sorted(os.listdir(tmp_path)) == before
    writer.write(tmp_path, 4)
    assert writer.version(tmp_path) == 4


@posix
@pytest.mark.parametrize("name", WRITERS)
def test_a_writer_that_is_killed(name, tmp_path):
    """Before each rename and each append: a fork dies there; the next run sweeps what it left."""
    writer = WRITERS[name]
    writer.write(tmp_path, 3)
    if not (pid := os.fork()):
        files.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        try:
            writer.write(tmp_path, 4)
        finally:
            os._exit(0)
    status = os.waitpid(pid, 0)[1]
    assert writer.version(tmp_path) == 4 if writer.grows else os.WIFSIGNALED(status)
    if not writer.grows:
        assert writer.version(tmp_path) == 3 and left(tmp_path)  # the fault was one
    writer.write(tmp_path, 5)
    assert writer.version(tmp_path) == 5 and not left(tmp_path)


def test_a_folder_that_may_not_be_written(tmp_path, monkeypatch):
    """Said with the file's own name, whichever part was refused."""

    def refused(path, *_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "touch", refused)
    for name, writer in WRITERS.items():
        if not writer.grows and name != "notebook":  # these do not begin with a part
            with pytest.raises(OSError, match=f"Read-only file system: '.*{writer.name}'"):
                writer.write(tmp_path, 1)
    assert not os.listdir(tmp_path)
    settings = dict(steps=1, out=tmp_path / "model.safetensors", checkpoint=None)
    with pytest.raises(OSError, match="Read-only file system"):
        train._refuse(settings)  # before the training, not after it


def test_what_can_be_written_is_asked_without_a_trace(tmp_path):
    files.check_writable(tmp_path / "new" / "er" / "model")
    assert not os.listdir(tmp_path)


# -- two at once -------------------------------------------------------------------------------


def saved(path, step, **settings):
    history = History(list(range(1, step + 1)), [0.5] * step)
    save_run(path, network(), [], SETTINGS | settings, history)


def test_a_checkpoint_of_a_run_that_began_meanwhile_is_not_lost(tmp_path):
    path = tmp_path / "run.safetensors"
    saved(path, 5)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="belongs to another run: seed was 0, now 1"):
        saved(path, 6, seed=1)
    saved(path, 4)  # the same run, behind the other process
    assert path.read_bytes() == before
    saved(path, 6)
    assert path.read_bytes() != before
    path.write_bytes(before[:-9])  # nobody can go on with that one
    saved(path, 2)
    assert len(path.read_bytes()) > 100


@posix
def test_a_checkpoint_is_looked_at_and_replaced_by_one_process_at_a_time(tmp_path, monkeypatch):
    """Else one that was behind could replace what another wrote after it had looked."""
    import fcntl

    held = []

    def look(path, *_):
        lock = os.open(path.parent, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(lock)
        held.append(True)
        return False

    monkeypatch.setattr("mylib.checkpoints._stands", look)
    saved(tmp_path / "run.safetensors", 1)
    assert held and os.listdir(tmp_path) == ["run.safetensors"]


def test_two_scripts_fill_one_table(tmp_path, capsys):
    one, two = table(tmp_path), table(tmp_path)
    one.add(n=1, text="one")
    two.add(n=2, text="two")
    one.add(n=3, text="three")
    assert {row["n"] for row in table(tmp_path).rows} == {"1", "2", "3"}


@posix
def test_a_table_is_begun_and_grows_by_one_process_at_a_time(tmp_path, monkeypatch, capsys):
    """Else two scripts that begin together would each write a header."""
    import fcntl

    append, held = Table._append, []

    def look(self, values):
        lock = os.open(tmp_path, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(lock)
        held.append(list(values))
        append(self, held[-1])

    monkeypatch.setattr(Table, "_append", look)
    table(tmp_path).add(n=1, text="one")
    table(tmp_path).add(n=1, text="again")  # the second script finds the header and the row
    assert held == [["n", "text"], ["1", "one"]]


def test_half_a_row_is_measured_again(tmp_path, capsys):
    table(tmp_path).add(n=1, text="one")
    path = tmp_path / "table.csv"
    whole = path.read_bytes()
    path.write_bytes(whole + b"2,tw")
    again = table(tmp_path)
    assert not again.has(n=2) and path.read_bytes() == whole
    again.add(n=2, text="two")
    assert [row["text"] for row in table(tmp_path).rows] == ["one", "two"]
    path.write_bytes(b"")  # killed before its first line
    assert table(tmp_path).rows == [] and path.read_bytes() == b"n,text\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"n,text\n1\n", r"table\.csv, line 2: \['1'\], expected columns"),
        (b"n,other\n1,2\n", r"table\.csv, line 1: "),
        (b"n,text\n1,\xff\n", r"table\.csv: not a table: "),
    ],
)
def test_a_table_of_another_form_is_refused(tmp_path, content, says):
    table(tmp_path)
    (tmp_path / "table.csv").write_bytes(content)
    with pytest.raises(ValueError, match=says):
        table(tmp_path)
    (tmp_path / "table.json").write_text("[")
    with pytest.raises(ValueError, match=r"table\.json: not a JSON file"):
        Table(tmp_path / "table.csv", ["n"], ["text"], {}, {})


# -- a model and its tokens --------------------------------------------------------------------


def test_a_model_and_its_tokens_are_both_saved_or_none(tmp_path, monkeypatch):
    """The disk is full when the model is written: the old pair stands."""
    out = tmp_path / "model.safetensors"
    settings = dict(out=out, text="t.txt", tokens=None, corpus=None, gazette=None)

    def save(text):
        source = SimpleNamespace(encoding=compact(load_tokenizer(), text))
        train._save(network(), "next", source, settings)

    save("Two geese.")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert before.keys() == {"model.safetensors", "model.tiktoken"}

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(out))

    with monkeypatch.context() as patched:
        patched.setattr(train.GPT, "save", full)
        with pytest.raises(OSError, match=r"No space left on device: .*model\.safetensors"):
            save("Two geese, and seven swans.")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    save("Two geese, and seven swans.")
    assert out.with_suffix(".tiktoken").read_bytes() != before["model.tiktoken"]


def test_the_table_of_what_was_run_by_hand():
    with open(FAULTS / "results.csv") as file:
        rows = list(csv.DictReader(file))
    faults = {row["fault"] for row in rows}
    assert faults == {"killed", "two at once", "full", "read-only", "cut"}
    for fault in faults:
        assert set(WRITERS) <= {row["writer"] for row in rows if row["fault"] == fault}
    killed = {row["writer"] for row in rows if row["fault"] == "killed"}
    assert {"fit (packed)", "fit (dropout)", "download", "make notebooks"} <= killed
    for row in rows:
        # A fault that hardly ever strikes shows nothing.
        assert int(row["rounds"]) >= int(row["met"]) >= max(2, int(row["rounds"]) // 5), row
        zeros = ("lost", "half_written", "left_behind", "wordless")
        assert [row[name] for name in zeros] == ["0"] * 4, row
