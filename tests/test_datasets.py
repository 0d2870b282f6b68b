"""Text that nobody here wrote: read as it is, or refused in clear words. And files.py."""

import sys
import time
from itertools import pairwise
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from mylib import tokenizer
from mylib.datasets import CORPORA, Stream, read_parts, read_text, text, tiny_shakespeare
from mylib.files import cache_dir
from mylib.tokenizer import BOS, EOS, load_tokenizer
from mylib.vocabulary import compact, encode_long

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


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0")), st.integers(1, 7))
def test_line_ends_and_blocks(tmp_path_factory, content, block):
    """\\r\\n and a lone \\r are \\n, wherever the file is cut into blocks."""
    path = tmp_path_factory.getbasetemp() / "lines.txt"
    path.write_bytes(b"\xef\xbb\xbfx\r" + content.encode() + "é\r\r\n\r".encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "BLOCK", block)
        parts = list(read_parts(path))
    wanted = f"x\r{content}é\r\r\n\r".replace("\r\n", "\n").replace("\r", "\n")
    assert "".join(parts) == read_text(path) == wanted
    assert max(map(len, parts)) <= block + 1  # a \r that waited for what follows


@pytest.mark.parametrize("unit", ["a", "two geese ", "ä", ".", " "])
def test_one_enormous_line(tmp_path, unit):
    path = tmp_path / "a.txt"
    line = "x" + unit * (10_000_000 // len(unit.encode()))
    path.write_bytes(line.encode())
    assert read_text(path) == line
    part = line[:300_000]
    start = time.process_time()
    stream = Stream.of(part, 64)
    assert time.process_time() - start < 20  # a second; quadratic time would be minutes
    assert tokenizer.decode(stream.ids.tolist()) == part


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


@pytest.mark.parametrize("block", [1, 4, 2**20])
def test_where_bytes_are_no_text(tmp_path, monkeypatch, block):
    monkeypatch.setattr(text, "BLOCK", block)
    path = tmp_path / "a.txt"
    for content, says in [
        (b"Two ge\0se", r"a\.txt is not text: it has NUL bytes, the first in position 6 "),
        (
            "Two geese".encode("utf-16-le"),
            r"is not text: it has NUL bytes, the first in position 1 ",
        ),
        (b"Two ge\xffse", r"is not UTF-8 text: invalid start byte in position 6$"),
        (b"Two g\xc3\xa9\xe2\x82", r"is not UTF-8 text: unexpected end of data in position 7$"),
        (b"\xef\xbb\xbfTwo\xc3geese", r"is not UTF-8 text: invalid continuation .* position 6$"),
        ("\ud83d".encode("utf-8", "surrogatepass"), r"is not UTF-8 text: .* position 0$"),
    ]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=says):
            read_text(path)


def test_files_that_are_no_text(tmp_path):
    (tmp_path / "good.txt").write_text("Two geese.")
    picture = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
    (tmp_path / "goose.txt").write_bytes(picture)
    for path in (tmp_path / "goose.txt", tmp_path):  # in a folder the file is named
        with pytest.raises(ValueError, match=r"goose\.txt is not text: it has NUL bytes"):
            read_text(path)
    np.save(tmp_path / "array.npy", np.arange(3))
    with pytest.raises(ValueError, match=r"array\.npy is not .*text"):
        read_text(tmp_path / "array.npy")
    assert next(read_parts(tmp_path)) == "Two geese."  # refused when it comes to it


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


def test_stream_in_another_vocabulary():
    small = compact(load_tokenizer(), "Two geese.")
    made = Stream.of("Two geese. Two swans.", 3, small)
    assert torch.equal(made.ids, encode_long(small, "Two geese. Two swans."))  # no space in front
    assert small.decode(made.ids.tolist()) == "Two geese. Two swans."


def test_framed_windows_are_documents():
    framed = Stream(torch.arange(100, 123), 7, framed=True)
    plain = Stream(torch.arange(100, 123), 5)
    assert framed.words == plain.words == 5
    drawn = [stream.sample(50, torch.Generator().manual_seed(0)) for stream in (framed, plain)]
    for mine, words in ((framed.windows(), plain.windows()), drawn):
        assert len(mine) == len(words)
        for window, inner in zip(mine, words, strict=True):
            assert window.tolist() == [BOS, *inner.tolist(), EOS] and window.dtype == torch.int64
    assert all(part.framed and part.length == 7 for part in framed.split(0.3))
    assert Stream.of("Two geese.", 4, framed=True).framed


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.uint16])
def test_ids_of_any_integer_type(dtype):
    ids = torch.arange(100, 123)
    for framed in (False, True):
        wanted, found = (Stream(x, 5, framed) for x in (ids, ids.to(dtype)))
        assert found.windows()[0].dtype == torch.int64
        assert torch.equal(torch.stack(found.windows()), torch.stack(wanted.windows()))
        one, two = (s.sample(9, torch.Generator().manual_seed(1)) for s in (wanted, found))
        assert torch.equal(torch.stack(one), torch.stack(two)) and two[0].dtype == torch.int64


def test_the_least_framed_window():
    assert Stream(torch.arange(9), 3, framed=True).windows()[8].tolist() == [BOS, 8, EOS]
    assert len(Stream(torch.arange(5), 7, framed=True).windows()) == 1  # a text of 5 words
    for length in (2, 8):
        with pytest.raises(ValueError, match=rf"{length} tokens \(at least 3\) .* shape \(5,\)"):
            Stream(torch.arange(5), length, framed=True)


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


def test_tiny_shakespeare(real_data):
    if not (real_data / CORPORA["tinyshakespeare"].path).exists():
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
