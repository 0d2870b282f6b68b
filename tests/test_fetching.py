"""A download is whole and right or it never was; every way it can fail has one clear line."""

import errno
import hashlib
import http.server
import io
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from mylib.datasets import CORPORA, Corpus, fetch, fetching, read_text, tiny_shakespeare
from mylib.datasets.fetching import content_hash

CONTENT = b"".join(b"Goose %d flies.\n" % i for i in range(20_000))  # more than one chunk
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


class Handler(http.server.BaseHTTPRequestHandler):
    """Sends `server.content` in the way that `server.manner` says."""

    def do_GET(self):
        self.server.asked += 1
        manner, content = self.server.manner, self.server.content
        if manner == "missing":
            return self.send_error(404)
        self.send_response(200)
        if manner != "cut without a length":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if manner.startswith("cut"):
            content = content[: len(content) // 2]
        for i in range(0, len(content), 50_000):
            self.wfile.write(content[i : i + 50_000])
            self.wfile.flush()
            if manner == "slow":
                time.sleep(0.05)
            while manner == "stuck" and not self.server.released.is_set():
                time.sleep(0.01)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """A server on this machine that has one file."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.handle_error = lambda *_: None  # a client that was killed
        server.content, server.manner, server.asked = CONTENT, "whole", 0
        server.released = threading.Event()
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def corpus(monkeypatch, tmp_path):
    """A corpus of our own, "geese", in an empty cache, and nobody who has it."""
    return entry(monkeypatch, tmp_path, "https://nowhere.invalid/geese/input.txt")


@pytest.fixture
def served(monkeypatch, tmp_path, server):
    """The same, where the server has it."""
    return entry(monkeypatch, tmp_path, f"http://127.0.0.1:{server.server_port}/input.txt")


def entry(monkeypatch, tmp_path, address):
    made = Corpus("geese/input.txt", address, SHA256, len(CONTENT))
    monkeypatch.setitem(CORPORA, "geese", made)
    monkeypatch.setenv("MYLIB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "geese" / "input.txt"


def fill(path, content):
    path.parent.mkdir(parents=True)
    path.write_bytes(content)


def left(path):
    """Every file of the cache."""
    return [file for file in path.parents[1].rglob("*") if file.is_file()]


def of_one_line(error):
    """The message: readable, and without another error that it came from."""
    says = str(error.value)
    assert "\n" not in says and len(says) < 600
    error = error.value
    assert error.__cause__ is None and (error.__context__ is None or error.__suppress_context__)
    return says


# -- what is known --------------------------------------------------------------------------------


def test_unknown_name():
    with pytest.raises(ValueError, match=r"unknown data set 'shakespeer'; known: tinyshakespeare"):
        fetch("shakespeer")


def test_every_entry():
    for name, corpus in CORPORA.items():
        kind, _, digits = corpus.hash.partition(":")
        assert len(bytes.fromhex(digits)) == {"sha256": 32, "git": 20}[kind]
        assert corpus.address.startswith("https://raw.githubusercontent.com/")
        assert corpus.address.endswith("/" + Path(corpus.path).name)
        assert not Path(corpus.path).is_absolute() and corpus.size > 100_000, name
    assert len({corpus.path for corpus in CORPORA.values()}) == len(CORPORA)


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_wikitext2_names_and_addresses(split):
    corpus = CORPORA[f"wikitext2-{split}"]
    assert corpus.path == f"wikitext-2/{split}.txt"
    assert corpus.address == (
        "https://raw.githubusercontent.com/pytorch/examples/"
        "77f55b912142e11fcfdf5b530231fb9c52f181e8/word_language_model/data/wikitext-2/"
        f"{split}.txt"
    )


def test_content_hash(tmp_path):
    path = tmp_path / "file"
    for content, git in [  # from `git hash-object`
        (b"", "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"),
        (b"what is up, doc?", "bd9dbf5aae1a3862dd1526723246b20206e5fc37"),
        (CONTENT, "17a76295e1e64fb640600fde5b6ec1bf594ef909"),
    ]:
        path.write_bytes(content)
        assert content_hash(path, "git:...") == f"git:{git}"
        assert content_hash(path, SHA256) == f"sha256:{hashlib.sha256(content).hexdigest()}"


# -- what is in the cache -------------------------------------------------------------------------


def test_a_right_file_is_used_without_a_network(served, server):
    fill(served, CONTENT)
    assert fetch("geese") == served and server.asked == 0
    assert read_text(fetch("geese")) == CONTENT.decode()


def test_no_cache_and_no_network(corpus):
    with pytest.raises(ConnectionError) as error:
        fetch("geese")
    says = of_one_line(error)
    assert says.startswith(f"geese is not in the cache ({corpus}), and could not be downloaded: ")
    assert not left(corpus)  # nothing half-made


@pytest.mark.parametrize("made", [".", "cache", "cache/geese"])
def test_a_failed_download_leaves_the_folders_as_they_were(served, server, tmp_path, made):
    (tmp_path / made).mkdir(exist_ok=True, parents=True)
    before = sorted(tmp_path.rglob("*"))
    server.manner = "missing"
    with pytest.raises(ConnectionError):
        fetch("geese")
    assert sorted(tmp_path.rglob("*")) == before
    beside = tmp_path / "cache" / "geese" / "other.txt"
    beside.parent.mkdir(exist_ok=True, parents=True)
    beside.write_text("kept")
    with pytest.raises(ConnectionError):
        fetch("geese")
    assert beside.read_text() == "kept"


def test_tiny_shakespeare_without_cache_and_network(monkeypatch, tmp_path):
    monkeypatch.setenv("MYLIB_CACHE", str(tmp_path))
    with pytest.raises(ConnectionError, match="tinyshakespeare is not in the cache"):
        tiny_shakespeare()


def test_a_damaged_file_is_refused(corpus, monkeypatch):
    fill(corpus, CONTENT[:-4])
    with pytest.raises(
        ConnectionError, match=rf"geese is damaged in the cache: sha256:\w+, expected {SHA256} "
    ):
        fetch("geese")  # it would be replaced, but there is no network
    monkeypatch.setattr(fetching, "_writable", lambda path: False)
    with pytest.raises(ValueError, match=r"geese is damaged in the cache: sha256:.*input\.txt"):
        fetch("geese")
    assert corpus.read_bytes() == CONTENT[:-4]  # not ours to delete


@pytest.mark.parametrize("damaged", [CONTENT[:-4], b"", b"x" * len(CONTENT)])
def test_a_damaged_file_is_replaced(served, damaged):
    fill(served, damaged)
    assert fetch("geese") == served
    assert served.read_bytes() == CONTENT and left(served) == [served]


# -- what comes from the network ------------------------------------------------------------------


@pytest.mark.parametrize("manner", ["whole", "slow"])
def test_a_download(served, server, manner, capfd):
    server.manner = manner
    assert fetch("geese") == served and served.read_bytes() == CONTENT
    assert left(served) == [served]
    assert fetch("geese") == served and server.asked == 1
    assert capfd.readouterr() == ("", "")  # stderr is no terminal here


def test_a_download_by_git_hash(served, monkeypatch, server):
    right = content_hash_of(CONTENT)
    monkeypatch.setitem(CORPORA, "geese", CORPORA["geese"]._replace(hash=right))
    server.content = CONTENT.replace(b"Goose 7 ", b"Goose 8 ")
    with pytest.raises(
        ValueError, match=rf"its hash is git:\w+, expected {right}; it was not kept"
    ):
        fetch("geese")
    server.content = CONTENT
    assert fetch("geese").read_bytes() == CONTENT
    served.write_bytes(CONTENT[1:])
    assert fetch("geese").read_bytes() == CONTENT and server.asked == 3


def content_hash_of(content):
    return (
        "git:" + hashlib.sha1(b"blob " + str(len(content)).encode() + b"\0" + content).hexdigest()
    )


@pytest.mark.parametrize(
    ("manner", "content", "kind", "says"),
    [
        (
            "whole",
            b"something else",
            ValueError,
            rf"hash is sha256:\w+, expected {SHA256}; .*not k",
        ),
        ("whole", CONTENT + b"\n", ValueError, rf"hash is sha256:\w+, expected {SHA256}; .*not k"),
        ("whole", b"", ValueError, r"hash is sha256:e3b0c44298fc\w+, expected"),
        ("cut", CONTENT, ConnectionError, r"could not be downloaded: .*bytes read"),
        ("cut without a length", CONTENT, ValueError, r"hash is sha256:\w+, expected"),
        ("missing", CONTENT, ConnectionError, r"could not be downloaded: 404"),
    ],
)
@pytest.mark.parametrize("before", [None, b"damaged"])
def test_a_bad_download_is_refused_and_the_next_recovers(
    served, server, manner, content, kind, says, before
):
    if before:
        fill(served, before)
    server.manner, server.content = manner, content
    with pytest.raises(kind, match=says) as error:
        fetch("geese")
    assert "geese" in of_one_line(error)
    assert [file.read_bytes() for file in left(served)] == ([before] if before else [])
    server.manner, server.content = "whole", CONTENT
    assert fetch("geese").read_bytes() == CONTENT and left(served) == [served]


def test_progress_is_told_where_asked(served, capfd, monkeypatch):
    fetch("geese", progress=True)
    told = capfd.readouterr()
    assert told.out == "" and "geese: 100%" in told.err
    served.unlink()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    fetch("geese", progress=False)
    assert capfd.readouterr() == ("", "")
    served.unlink()
    fetch("geese")
    assert "geese: 100%" in capfd.readouterr().err


# -- the disk -------------------------------------------------------------------------------------


FULL = r"no space left in .*geese: geese needs about 0\.4 MB; MYLIB_CACHE can name another folder"


class Filling(io.FileIO):
    """A file on a disk that has room for its beginning; the refusal is the system's own."""

    def write(self, data):
        if not self.tell():
            return super().write(data)
        with open("/dev/full", "wb", buffering=0) as full:
            return full.write(data)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no disk that is always full")
def test_a_full_disk(served, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(fetching, "open", Filling, raising=False)
        with pytest.raises(OSError, match=FULL) as error:
            fetch("geese")
    assert error.value.errno == errno.ENOSPC and of_one_line(error)
    assert not left(served)
    assert fetch("geese").read_bytes() == CONTENT


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
@pytest.mark.parametrize("content", [None, CONTENT])
def test_a_cache_that_may_not_be_written(served, monkeypatch, number, content):
    @contextmanager
    def refused(path):
        raise OSError(number, os.strerror(number), str(path))
        yield

    if content:
        fill(served, content)
    monkeypatch.setattr(fetching, "replacing", refused)
    if content:  # nothing needs to be written
        assert fetch("geese") == served
        return
    with pytest.raises(OSError, match=r"geese may not be written .*MYLIB_CACHE can name") as error:
        fetch("geese")
    assert of_one_line(error) and error.value.errno == number
    assert isinstance(error.value, PermissionError) == (number != errno.EROFS)


@pytest.mark.skipif(not os.path.isdir("/sys/kernel"), reason="no folder that refuses everybody")
def test_a_cache_in_a_real_folder_that_refuses(served, monkeypatch):
    monkeypatch.setenv("MYLIB_CACHE", "/sys/kernel/geese")  # refuses root, too
    with pytest.raises(OSError, match=r"/sys/kernel/geese/geese may not be written .*MYLIB_CACHE"):
        fetch("geese")


def test_a_cache_that_is_a_file(served, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("MYLIB_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"geese cannot be kept in .*: .*; MYLIB_CACHE can name"):
        fetch("geese")


# -- processes ------------------------------------------------------------------------------------

# The module without its package, which would load torch: these processes are here to be quick.
FETCHES = """
import sys, types
package = sys.modules["mylib.datasets"] = types.ModuleType("mylib.datasets")
package.__path__ = ["mylib/datasets"]
from mylib.datasets.fetching import CORPORA, Corpus, fetch
CORPORA["geese"] = Corpus("geese/input.txt", sys.argv[1], sys.argv[2], 0)
print(fetch("geese"))
"""


def fetches():
    """A process of its own that fetches the geese."""
    corpus = CORPORA["geese"]
    command = [sys.executable, "-c", FETCHES, corpus.address, corpus.hash]
    root = Path(__file__).resolve().parents[1]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)


def until(true, seconds=300):
    stop = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < stop, "waited too long"
        time.sleep(0.01)


def test_two_processes_at_once(served, server):
    server.manner = "stuck"
    both = [fetches(), fetches()]
    until(lambda: len(left(served)) == 2)  # each has begun a file of its own
    assert not served.exists()
    server.released.set()
    assert [process.communicate(timeout=300)[0].strip() for process in both] == [str(served)] * 2
    assert [process.returncode for process in both] == [0, 0] and server.asked == 2
    assert served.read_bytes() == CONTENT and left(served) == [served]


@pytest.mark.skipif(os.name != "posix", reason="processes are asked by signal 0")
def test_a_killed_download_leaves_no_file_for_ever(served, server):
    server.manner = "stuck"
    process = fetches()
    until(lambda: left(served))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not served.exists() and len(left(served)) == 1
    server.manner = "whole"
    assert fetch("geese").read_bytes() == CONTENT and left(served) == [served]
