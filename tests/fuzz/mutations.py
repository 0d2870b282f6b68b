"""Strategies for hypothesis: valid inputs, broken in some places.

`changed` breaks a structure (nested dicts and lists), `damaged` breaks bytes. Some values stand
for text that no writer of JSON or TOML produces; `raw` puts it in after writing.
"""

from __future__ import annotations

import copy
import json
import math

import hypothesis.strategies as st

RAW = {  # what stands for it in a structure, and what is written
    "@deep@": "[" * 20_000 + "]" * 20_000,
    "@hex@": "0x" + "f" * 5_000,  # TOML reads it; Python refuses to print it in decimal
    "@long@": "9" * 5_000,
    "@half@": '"\\ud800"',  # half a surrogate pair, as JSON escapes it
    "@open@": "{",
}
SMALL = (None, True, False, 0, -1, 1, 2, 7, 0.5, "", " ", "a", "é", "\0", "\x85", "{", [], {})
LARGE = (10**9, -(10**9), 10**30, 10**400, 1e308, -1e308, math.nan, math.inf, -math.inf)
NESTED = ([[]], [{}], {"a": {}}, [1, "a"], [None], "\ud800", "../../x", "/dev/zero", "1", "nan")
WORDS = ("x" * 1_000, "{a.b}", "{x}", "O", "min")
JUNK = (*SMALL, *LARGE, *NESTED, *WORDS, *RAW)


def places(value) -> list[tuple]:
    """Every (container, key) below a structure."""
    found, waiting = [], [value]
    while waiting:
        holder = waiting.pop()
        pairs = holder.items() if isinstance(holder, dict) else enumerate(holder)
        for key, inside in list(pairs):
            found.append((holder, key))
            if isinstance(inside, dict | list):
                waiting.append(inside)
    return found


@st.composite
def changed(draw, valid, most=3):
    """A copy of the structure with one to ``most`` changes anywhere in it."""
    value = {"whole": copy.deepcopy(valid)}
    for _ in range(draw(st.sampled_from((1, 1, 1, 2, most)))):
        found = places(value)
        holder, key = draw(st.sampled_from(range(len(found))).map(found.__getitem__))
        other, there = draw(st.sampled_from(range(len(found))).map(found.__getitem__))
        old, fresh = holder[key], copy.deepcopy(other[there])
        kind = draw(st.sampled_from(("junk", "junk", "drop", "rename", "copy", "near", "wrap")))
        if kind == "drop" and holder is not value:
            del holder[key]
        elif kind == "rename" and isinstance(holder, dict) and holder is not value:
            holder[draw(st.sampled_from(("", "a", "id", "x.y", "-1", f"{key} ")))] = holder.pop(key)
        elif kind == "copy" and isinstance(holder, list):
            holder.insert(key, fresh)
        elif kind == "copy":
            holder[key] = fresh
        elif kind == "wrap":
            holder[key] = draw(st.sampled_from(([old], {"a": old}, [old, old], [old] * 50)))
        else:
            near = _near(old) if kind == "near" else ()
            holder[key] = copy.deepcopy(draw(st.sampled_from(near or JUNK)))
    return value["whole"]


def _near(old) -> tuple:
    """Values of the same kind that are a little wrong."""
    if isinstance(old, bool):
        return (not old, int(old))
    if isinstance(old, int | float) and abs(old) < 1e300:
        return (-old, old + 1, old - 1, old * 1_000, old * 10**6, old + 0.5, str(old), bool(old))
    if isinstance(old, str):
        return (
            old + " ",
            old[1:],
            old[::-1],
            old * 2,
            old.upper(),
            f"{{{old}}}",
            old + "\n",
            [old],
        )
    if isinstance(old, list):
        return (old[::-1], old[1:], old * 2, [*old, None], dict(enumerate(map(str, old))))
    return ()


@st.composite
def damaged(draw, data: bytes, most=3):
    """The bytes with one to ``most`` of them (or stretches of them) changed."""
    for _ in range(draw(st.integers(1, most))):
        here = draw(st.integers(0, len(data)))
        stop = draw(st.integers(here, min(len(data), here + 64)))
        kind = draw(st.sampled_from(("put", "cut", "insert", "drop", "repeat", "move")))
        piece = draw(st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from(PIECES)))
        data = {
            "put": data[:here] + piece + data[here + len(piece) :],
            "cut": data[:here],
            "insert": data[:here] + piece + data[here:],
            "drop": data[:here] + data[stop:],
            "repeat": data[:stop] + data[here:],
            "move": data[stop:] + data[here:stop] + data[:here],
        }[kind]
    return data


PIECES = (b"\0", b"\xff", b"\xef\xbb\xbf", b"\r", b"\n\n", b"\t", b'"', b"[[", b"}", b"=", b"9")


def written(valid, write):
    """Bytes of a broken file: a broken structure, broken bytes, both, or nothing of the form."""
    structure = changed(valid).map(lambda value: raw(write(value)))
    return st.one_of(
        structure,
        structure,
        damaged(raw(write(valid))),
        structure.flatmap(damaged),
        st.binary(max_size=200),
    )


def raw(text: str | bytes) -> bytes:
    """Bytes of a text in which the names of `RAW` stand for what they name."""
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    for name, means in RAW.items():
        data = data.replace(f'"{name}"'.encode(), means.encode())
    return data


def toml(raw: dict) -> str:
    """A structure as TOML, or as something that looks like it."""
    pairs = raw.items() if isinstance(raw, dict) else [("whole", raw)]
    return "\n".join(f"{json.dumps(str(key))} = {_toml(item)}" for key, item in pairs)


def _toml(item) -> str:
    if isinstance(item, dict):
        return "{" + ", ".join(f"{json.dumps(str(k))} = {_toml(v)}" for k, v in item.items()) + "}"
    if isinstance(item, list):
        return "[" + ", ".join(map(_toml, item)) + "]"
    return repr(item) if isinstance(item, float) else json.dumps(item, ensure_ascii=False)
