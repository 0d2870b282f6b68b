"""Text that nobody here wrote: read as it is, or refused in clear words. And files.py."""

import hashlib
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from mylib import tokenizer
from mylib.datasets import CORPORA, Stream, fetch, fetching, read_text, tiny_shakespeare
from mylib.files import cache_dir

# -- text files -----------------------------------------------------------------------------------


def test_a_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("Naïve geese.\n\nTwo of them.\n", encoding="utf-8")
    assert read_text(path) == read_text(str(path)) == "Naïve geese.\n\nTwo of them.\n"


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_file_from_windows(tmp_path, mark):
    path = tmp_path / "a.txt"
    path.write_bytes(mark + b"One goose.\r\nTwo geese.\r\n")
    assert read_text(path) == "One goose.\nTwo geese.\n"


def test_a_folder_in_the_order_of_names(tmp_path):
    (tmp_path / "b.txt").write_text("second")
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "c.txt").write_text("third")
    (tmp_path / "z.txt").mkdir()  # a folder, whatever its name
    (tmp_path / "a.md").write_text("not a text")
    assert read_text(tmp_path) == "first\nsecond\nthird"


def test_texts_that_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file or folder .*nowhere\.txt"):
        read_text(tmp_path / "nowhere.txt")
    with pytest.raises(ValueError, match=r"no text in .*: no \*\.txt files"):
        read_text(tmp_path)
    empty = tmp_path / "empty.txt"
    for content in ("", " \n\t\n"):
        empty.write_text(content)
        for path in (empty, tmp_path):
            with pytest.raises(ValueError, match=rf"no text in {path}$"):
                read_text(path)
    (tmp_path / "latin.txt").write_bytes("Naïve".encode("latin-1"))
    for path in (tmp_path / "latin.txt", tmp_path):
        with pytest.raises(ValueError, match=r"latin\.txt is not UTF-8 text: .*position 2"):
            read_text(path)


# -- windows --------------------------------------------------------------------------------------


@pytest.fixture
def stream():
    return Stream(torch.arange(100, 123), 5)


def test_windows_cut_the_text_once(stream):
    windows = stream.windows()
    assert [len(window) for window in windows] == [5] * 4
    assert torch.cat(windows).tolist() == list(range(100, 120))  # 3 tokens are left out


def test_samples_begin_anywhere(stream):
    samples = stream.sample(600, torch.Generator().manual_seed(0))
    assert {int(window[0]) for window in samples} == set(range(100, 119))
    assert all(b - a == 1 for window in samples for a, b in pairwise(window.tolist()))
    assert all(len(window) == 5 for window in samples)
    again = stream.sample(600, torch.Generator().manual_seed(0))
    assert torch.equal(torch.stack(samples), torch.stack(again))


def test_a_window_as_long_as_the_text():
    (window,) = Stream(torch.arange(5), 5).windows()
    sampled = Stream(torch.arange(5), 5).sample(2, torch.Generator().manual_seed(0))
    assert window.tolist() == sampled[0].tolist() == sampled[1].tolist() == [0, 1, 2, 3, 4]


def test_split(stream):
    train, held_out = stream.split(0.3)
    assert torch.equal(torch.cat([train.ids, held_out.ids]), stream.ids)
    assert (len(train.ids), len(held_out.ids)) == (16, 7)
    assert train.length == held_out.length == 5
    for share in (0, 1, -0.5, 1.5, float("nan")):
        with pytest.raises(ValueError, match="between 0 and 1"):
            stream.split(share)
    for share in (0.1, 0.9):  # one part is shorter than a window
        with pytest.raises(ValueError, match=r"windows of 5 tokens .* shape \([23],\)"):
            stream.split(share)


def test_stream_of_a_text():
    made = Stream.of("Every effort moves you forward.", 3)
    assert tokenizer.decode(made.ids.tolist()) == "Every effort moves you forward."
    assert [tokenizer.words(window.tolist()) for window in made.windows()] == [
        ["Every", "effort", "moves"],
        ["you", "forward", "."],
    ]


@pytest.mark.parametrize(
    ("ids", "length"),
    [
        (torch.arange(4), 5),
        (torch.arange(4), 1),
        (torch.arange(4), 0),
        (torch.zeros(2, 3), 2),
        (torch.zeros(0), 2),
    ],
)
def test_windows_that_do_not_fit(ids, length):
    with pytest.raises(ValueError, match=rf"windows of {length} tokens"):
        Stream(ids, length)


# -- public corpora -------------------------------------------------------------------------------


@pytest.fixture
def corpus(monkeypatch, tmp_path):
    """A corpus of our own, "geese", in an empty cache."""
    content = b"Two geese.\n"
    sha256 = hashlib.sha256(content).hexdigest()
    address = "https://nowhere.invalid/geese/input.txt"
    monkeypatch.setitem(CORPORA, "geese", ("geese/input.txt", address, sha256))
    monkeypatch.setenv("MYLIB_CACHE", str(tmp_path))
    return tmp_path / "geese" / "input.txt", content


def fill(path, content):
    path.parent.mkdir(parents=True)
    path.write_bytes(content)


def test_unknown_name():
    with pytest.raises(ValueError, match=r"unknown data set 'shakespeer'; known: tinyshakespeare"):
        fetch("shakespeer")


def test_a_right_file_is_used_without_a_network(corpus, monkeypatch):
    path, content = corpus
    fill(path, content)
    monkeypatch.setattr("pooch.retrieve", lambda *_, **__: pytest.fail("asked the network"))
    assert fetch("geese") == path
    assert read_text(fetch("geese")) == "Two geese.\n"


def test_no_cache_and_no_network(corpus):
    path, _ = corpus
    with pytest.raises(ConnectionError) as error:
        fetch("geese")
    says = str(error.value)
    assert says.startswith(f"geese is not in the cache ({path}), and could not be downloaded: ")
    assert (
        len(says) < 600 and error.value.__cause__ is None and error.value.__suppress_context__
    )  # one readable line, no trace
    assert not [file for file in path.parents[1].rglob("*") if file.is_file()]  # nothing half-made


def test_tiny_shakespeare_without_cache_and_network(monkeypatch, tmp_path):
    monkeypatch.setenv("MYLIB_CACHE", str(tmp_path))
    with pytest.raises(ConnectionError, match="tinyshakespeare is not in the cache"):
        tiny_shakespeare()


def test_a_damaged_file_is_refused(corpus, monkeypatch):
    path, content = corpus
    fill(path, content[:-4])
    with pytest.raises(
        ConnectionError, match=r"geese is damaged in the cache: sha256 .*, expected "
    ):
        fetch("geese")  # it would be replaced, but there is no network
    monkeypatch.setattr(fetching, "_writable", lambda path: False)
    with pytest.raises(ValueError, match=r"geese is damaged in the cache: sha256 .*input\.txt"):
        fetch("geese")
    assert path.read_bytes() == content[:-4]  # not ours to delete


def test_downloaded_bytes_are_checked(corpus, monkeypatch):
    path, content = corpus
    sent = content

    def download(url, output_file, pooch, **_):
        assert url == "https://nowhere.invalid/geese/input.txt"
        with open(output_file, "wb") as file:
            file.write(sent)

    monkeypatch.setattr("pooch.core.choose_downloader", lambda *_, **__: download)
    assert fetch("geese") == path and path.read_bytes() == content
    path.unlink()
    sent = b"something else"
    with pytest.raises(ValueError, match="hash"):
        fetch("geese")
    assert not path.exists()


def test_tiny_shakespeare(real_data):
    if not (real_data / CORPORA["tinyshakespeare"][0]).exists():
        pytest.skip(f"no Tiny Shakespeare in {real_data}")
    text = tiny_shakespeare()
    assert len(text) == 1_115_394 and text.startswith("First Citizen:\nBefore we proceed")
    part = text[:20_000]
    stream = Stream.of(part, 64)
    assert tokenizer.decode(stream.ids.tolist()) == part
    assert len(stream.windows()) == len(stream.ids) // 64


# -- files.py -------------------------------------------------------------------------------------


def test_cache_dir(monkeypatch, tmp_path):
    monkeypatch.setenv("MYLIB_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("MYLIB_CACHE")
    places = {
        "linux": ({"XDG_CACHE_HOME": "/x"}, Path("/x/mylib")),
        "darwin": ({}, Path.home() / "Library" / "Caches" / "mylib"),
        "win32": ({"LOCALAPPDATA": "/local"}, Path("/local/mylib")),
    }
    for platform, (environment, wanted) in places.items():
        monkeypatch.setattr(sys, "platform", platform)
        for name, folder in environment.items():
            monkeypatch.setenv(name, folder)
        assert cache_dir() == wanted
