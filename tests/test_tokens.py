"""A token file gives the windows that the text gives, from disk, or is refused in clear words."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import hypothesis.strategies as st
import pytest
import tiktoken
import torch
from hypothesis import given, settings

from mylib import vocabulary
from mylib.datasets import Stream, open_tokens, read_text, text, write_tokens
from mylib.tokenizer import PATTERN, load_tokenizer
from mylib.vocabulary import compact, encode_long

GAZETTE = load_tokenizer()
HEADER = 512
TEXT = "Ada and two geese.\nThe harbour, 12 boats: naïve 🙂\n\n" * 40
# Ids of which the last does not fit into two bytes.
LARGE = tiktoken.Encoding(
    "large",
    pat_str=PATTERN,
    mergeable_ranks={bytes([i]): i for i in range(256)} | {b"ee": 65_536},
    special_tokens={},
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "below" / "geese.tokens"


@pytest.fixture
def written(path):
    assert write_tokens(path, [TEXT], GAZETTE) == len(encode_long(GAZETTE, TEXT))
    return path


# -- the same windows -----------------------------------------------------------------------------


@pytest.mark.parametrize("framed", [False, True])
def test_windows_from_disk_equal_those_from_memory(written, framed):
    memory = Stream.of(TEXT, 16, GAZETTE, framed)
    disk = Stream(open_tokens(written, GAZETTE), 16, framed)
    assert disk.ids.dtype == torch.uint16 and disk.ids.shape == memory.ids.shape
    assert disk.ids.tolist() == memory.ids.tolist()
    for one, two in [(memory, disk), *zip(memory.split(0.3), disk.split(0.3), strict=True)]:
        assert torch.equal(torch.stack(one.windows()), torch.stack(two.windows()))
        drawn = [s.sample(50, torch.Generator().manual_seed(0)) for s in (one, two)]
        assert torch.equal(*map(torch.stack, drawn)) and drawn[1][0].dtype == torch.int64


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=20), max_size=5), st.text(min_size=1), st.integers(1, 12))
def test_it_does_not_matter_how_the_text_comes(tmp_path_factory, parts, last, part):
    path = tmp_path_factory.getbasetemp() / "any.tokens"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabulary, "PART", part)
        count = write_tokens(path, (part for part in [*parts, last]), GAZETTE)
        whole = encode_long(GAZETTE, "".join([*parts, last]))
    assert open_tokens(path, GAZETTE).tolist() == whole.tolist() and count == len(whole)


def test_a_file_and_a_folder(path, tmp_path, monkeypatch):
    monkeypatch.setattr(text, "BLOCK", 100)  # bytes: words and characters are cut
    monkeypatch.setattr(vocabulary, "PART", 50)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_bytes(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode())
    (folder / "b.txt").write_text("Two swans.")
    for source in (folder, folder / "a.txt"):
        write_tokens(path, source, GAZETTE)
        found = open_tokens(path, GAZETTE)
        assert found.tolist() == GAZETTE.encode_ordinary(read_text(source))
        assert torch.equal(Stream.of(read_text(source), 9, GAZETTE).ids, found.long())


def test_ids_that_need_four_bytes(path):
    write_tokens(path, ["geese"], LARGE)
    found = open_tokens(path, LARGE)
    assert found.dtype == torch.int32 and found.tolist() == [103, 65_536, 115, 101]
    assert path.stat().st_size == HEADER + 4 * 4
    (window,) = Stream(found, 4).windows()
    assert window.dtype == torch.int64 and window.tolist() == found.tolist()


def test_ids_are_little_endian_behind_the_header(written):
    raw = written.read_bytes()
    ids = encode_long(GAZETTE, TEXT).tolist()
    assert raw[HEADER:] == b"".join(i.to_bytes(2, "little") for i in ids)
    assert raw[:8] == b"mylibtok"
    header = json.loads(raw[8:HEADER])
    assert (header["dtype"], header["count"], header["name"]) == ("uint16", len(ids), "gazette")


# -- on disk --------------------------------------------------------------------------------------


def large(path, count):
    """A token file whose ids are not on disk yet: a file with a hole."""
    write_tokens(path, ["x"], GAZETTE)
    header = json.loads(path.read_bytes()[8:HEADER]) | {"count": count}
    with open(path, "r+b") as file:
        file.write((b"mylibtok" + json.dumps(header).encode()).ljust(HEADER))
        file.truncate(HEADER + 2 * count)


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="no count of resident pages")
def test_opening_takes_no_memory(path):
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    large(path, 200_000_000)  # 400 MB
    open_tokens(path, GAZETTE)
    before = resident()
    stream = Stream(open_tokens(path, GAZETTE), 128)
    stream.sample(64, torch.Generator().manual_seed(0))
    assert len(stream.ids) == 200_000_000 and resident() - before < 40e6
    control = stream.ids.clone()
    assert resident() - before > 300e6 and len(control)


def test_what_is_changed_in_memory_stays_there(written):
    raw = written.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of arrays that may not be written
        ids = open_tokens(written, GAZETTE)
    ids[:] = 7
    assert ids.tolist() == [7] * len(ids) and written.read_bytes() == raw
    assert open_tokens(written, GAZETTE).tolist() == encode_long(GAZETTE, TEXT).tolist()


@pytest.mark.skipif(os.name != "posix", reason="an open file cannot be replaced elsewhere")
def test_an_open_file_may_be_replaced(written):
    ids = open_tokens(written, GAZETTE)
    write_tokens(written, ["Two swans."], GAZETTE)
    assert ids.tolist() == encode_long(GAZETTE, TEXT).tolist()
    assert open_tokens(written, GAZETTE).tolist() == encode_long(GAZETTE, "Two swans.").tolist()


# -- what is refused ------------------------------------------------------------------------------


def test_tokens_of_another_tokenizer(written):
    small = compact(GAZETTE, TEXT)
    ours, others = (vocabulary.fingerprint(e)[:12] for e in (GAZETTE, small))
    says = rf"tokens of 'gazette' \({ours}\.\.\.\), not those of 'course-\d+' \({others}\.\.\.\)$"
    with pytest.raises(ValueError, match=says):
        open_tokens(written, small)
    write_tokens(written, [TEXT], small)
    with pytest.raises(ValueError, match=r"tokens of 'course-\d+' .* not those of 'gazette'"):
        open_tokens(written, GAZETTE)
    assert small.decode(open_tokens(written, small).tolist()) == TEXT


@pytest.mark.parametrize("cut", [1, 2, 1000])
def test_a_truncated_file(written, cut):
    raw = written.read_bytes()
    for content in (raw[:-cut], raw + b"x" * cut):
        written.write_bytes(content)
        with pytest.raises(
            ValueError, match=rf"damaged: {len(content)} bytes, expected {len(raw)} "
        ):
            open_tokens(written, GAZETTE)


@pytest.mark.parametrize(
    "content", [b"", b"Two geese.", b"\x89PNG\r\n\x1a\n\0", b"mylibto", TEXT.encode()]
)
def test_a_foreign_file(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"geese\.tokens is no token file: it begins with b"):
        open_tokens(path, GAZETTE)


def test_a_damaged_header(written):
    raw = written.read_bytes()
    right = json.loads(raw[8:HEADER])
    wrong = [
        b"",
        b"\0" * 100,
        json.dumps(right).encode()[:-1],
        b"[]",
        b"7",
        *(
            json.dumps(right | change).encode()
            for change in (
                {"dtype": "float32"},
                {"dtype": ["uint16"]},
                {"count": 0},
                {"count": -1},
                {"count": "12"},
                {"count": True},
                {"fingerprint": None},
                {"more": 1},
            )
        ),
        *(json.dumps({k: v for k, v in right.items() if k != key}).encode() for key in right),
    ]
    for header in wrong:
        written.write_bytes((b"mylibtok" + header).ljust(HEADER) + raw[HEADER:])
        with pytest.raises(ValueError, match=r"is damaged: no header of a token file in its first"):
            open_tokens(written, GAZETTE)
    written.write_bytes(raw[: HEADER - 100])  # cut within the header
    with pytest.raises(ValueError, match="is damaged"):
        open_tokens(written, GAZETTE)


def test_no_file(path):
    with pytest.raises(FileNotFoundError, match=r"no file .*geese\.tokens"):
        open_tokens(path, GAZETTE)
    with pytest.raises(FileNotFoundError, match=r"no file or folder .*nowhere"):
        write_tokens(path, path.parent / "nowhere", GAZETTE)
    assert not path.parent.exists()


def test_texts_that_are_refused(written, tmp_path):
    raw = written.read_bytes()
    bad = tmp_path / "bad.txt"
    for content, says in [
        (b"", "no text in .*bad"),
        (b" \r\n\t", "no text in .*bad"),
        (TEXT.encode() + b"\xff", r"bad\.txt is not UTF-8 text"),
        (TEXT.encode() + b"\0", r"bad\.txt is not text: it has NUL bytes"),
    ]:
        bad.write_bytes(content)
        with pytest.raises(ValueError, match=says):
            write_tokens(written, bad, GAZETTE)
    for nothing in ([], [""], iter(["", ""])):
        with pytest.raises(ValueError, match=r"no tokens for .*geese\.tokens: the text is empty"):
            write_tokens(written, nothing, GAZETTE)
    for string in ("Two geese.", str(bad)):
        with pytest.raises(TypeError, match=r"give Path\(name\) or \[text\]"):
            write_tokens(written, string, GAZETTE)
    assert written.read_bytes() == raw  # the old file stands
    assert os.listdir(written.parent) == [written.name]


# -- writers that die, and two at once ------------------------------------------------------------

WRITES = """
import sys, time
from pathlib import Path
from mylib.datasets import write_tokens
from mylib.tokenizer import load_tokenizer

def parts(half, go):
    yield "goose " * 50_000
    half.touch()
    while not go.exists():
        time.sleep(0.01)

write_tokens(sys.argv[1], parts(*map(Path, sys.argv[2:])), load_tokenizer())
"""


def half_written(path, half, go):
    """A process that has written half of a file of geese, and waits for ``go``."""
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-c", WRITES, str(path), str(half), str(go)]
    process = subprocess.Popen(command, cwd=root)
    stop = time.monotonic() + 300
    while not half.exists():
        assert time.monotonic() < stop and process.poll() is None
        time.sleep(0.02)
    return process


@pytest.mark.skipif(os.name != "posix", reason="processes are asked by signal 0")
def test_a_killed_writer_leaves_the_old_file_and_two_at_once_do_no_harm(written, tmp_path):
    raw, go = written.read_bytes(), tmp_path / "go"
    process = half_written(written, tmp_path / "one", go)
    (part,) = (file for file in written.parent.iterdir() if file != written)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert written.read_bytes() == raw and part.stat().st_size > HEADER

    process = half_written(written, tmp_path / "two", go)
    write_tokens(written, ["Two swans."], GAZETTE)
    assert open_tokens(written, GAZETTE).tolist() == encode_long(GAZETTE, "Two swans.").tolist()
    go.touch()
    assert process.wait(timeout=300) == 0
    geese = encode_long(GAZETTE, "goose " * 50_000)
    assert open_tokens(written, GAZETTE).tolist() == geese.tolist()  # the last takes the place
    assert os.listdir(written.parent) == [written.name]  # the killed one's part is swept


def test_an_error_on_the_way_leaves_the_old_file(written):
    raw = written.read_bytes()

    def parts():
        yield TEXT * 200
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_tokens(written, parts(), GAZETTE)
    assert written.read_bytes() == raw and os.listdir(written.parent) == [written.name]
