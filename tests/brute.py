"""The slow oracle: every document of a small grammar written out, straight from the raw TOML.

It shares nothing with mylib.grammar and mylib.templates: references are filled in as text, and the
text is encoded whole. Letters: N documents (a text that two templates can write stands twice),
C positions of the canvas, V tokens.
"""

import itertools
import json
import math
import re

import hypothesis.strategies as st
import torch

from mylib import tokenizer
from mylib.grammar import TAGS
from mylib.tokenizer import BOS, EOS, PAD

REFERENCE = re.compile(r"\{(\w+)\.(\w+)\}")
POOL = ["Marlow", "Ada", "Ashby", "red", "goose", "piano", "two", "On", "the", "ferry"]


class Brute:
    """``ids`` (N, C), ``p`` (N,), ``tags`` (N, C), ``template`` (N,) of every document."""

    def __init__(self, raw, vocab_size):
        self.vocab_size = vocab_size
        written = list(documents(raw))
        self.length = max(len(ids) for ids, *_ in written)
        self.p = torch.tensor([p for _, p, _, _ in written], dtype=torch.float64)
        self.template = torch.tensor([k for *_, k in written])
        self.ids = torch.full((len(written), self.length), PAD)
        self.tags = torch.zeros(len(written), self.length, dtype=torch.long)
        for n, (ids, _, tags, _) in enumerate(written):
            self.ids[n, : len(ids)] = torch.tensor(ids)
            self.tags[n, : len(tags)] = torch.tensor(tags)

    def texts(self):
        """Probability of every different document."""
        found = {}
        for row, p in zip(self.ids.tolist(), self.p.tolist(), strict=True):
            found[tuple(row)] = found.get(tuple(row), 0.0) + p
        return found

    def weights(self, ids, visible):
        """p(document, shown words), (N,); what is shown beyond the canvas must be <pad>."""
        wide = torch.full((len(self.p), max(self.length, len(ids))), PAD)
        wide[:, : self.length] = self.ids
        return self.p * ((wide[:, : len(ids)] == ids) | ~visible).all(-1)

    def spread(self, weights, labels, size):
        """Sum of normalised weights by label at every position: (C, size)."""
        out = torch.zeros(self.length, size, dtype=torch.float64)
        for n, weight in enumerate((weights / weights.sum()).tolist()):
            out[torch.arange(self.length), labels[n]] += weight
        return out

    def posterior(self, ids, visible):
        weights = self.weights(ids, visible)
        return self.spread(weights, self.ids, self.vocab_size), weights.sum()

    def weighed(self, evidence):
        """The same from likelihoods (T, V), T at most C."""
        time = len(evidence)
        weights = self.p * evidence[torch.arange(time), self.ids[:, :time]].prod(-1)
        return self.spread(weights, self.ids, self.vocab_size), weights.sum()

    def nearest(self, ids):
        """Fewest positions that differ, both rows padded to the same length."""
        wide = max(self.length, len(ids))
        mine = torch.full((len(self.p), wide), PAD)
        mine[:, : self.length] = self.ids
        row = torch.full((wide,), PAD)
        row[: len(ids)] = ids
        return int((mine != row).sum(-1).min())


def documents(raw):
    """(ids with <bos> and <eos>, p, tags, number of the flat template) of everything printable."""
    whole = sum(frame["weight"] for frame in raw["frames"].values())
    number = -1
    for frame in raw["frames"].values():
        for chosen in itertools.product(*(weighted(slot) for slot in frame["slots"])):
            number += 1
            share = frame["weight"] / whole * math.prod(p for _, p in chosen)
            text = " ".join(text for text, _ in chosen)
            used = {draw for draw, _ in REFERENCE.findall(text)}
            draws = {draw: frame["draws"][draw] for draw in frame.get("draws", {}) if draw in used}
            rows = [weighted_rows(raw["tables"][table]) for table in draws.values()]
            for picked in itertools.product(*rows):
                values = dict(zip(draws, (row for row, _ in picked), strict=True))
                ids, tags = fill(text, values, {d: raw["tables"][t] for d, t in draws.items()})
                yield ids, share * math.prod(p for _, p in picked), tags, number


def weighted(slot):
    variants = [{"text": variant} if isinstance(variant, str) else variant for variant in slot]
    whole = sum(variant.get("weight", 1) for variant in variants)
    return [(variant["text"], variant.get("weight", 1) / whole) for variant in variants]


def weighted_rows(table):
    weights = table.get("weights", [1] * len(table["rows"]))
    return [(row, w / sum(weights)) for row, w in zip(table["rows"], weights, strict=True)]


def fill(text, values, tables):
    """References replaced by words: ids and the tag of each token."""
    out, tags = "", []
    for piece in re.split(r"(\{\w+\.\w+\})", text):
        word, tag = piece, 0
        if match := REFERENCE.fullmatch(piece):
            draw, column = match.groups()
            word = values[draw][tables[draw]["columns"].index(column)]
            tag = TAGS.index(tables[draw].get("tags", {}).get(column, "O"))
        out, tags = out + word, tags + [tag] * len(word)
    starts = [start for start, _ in tokenizer.offsets(out)]
    ids = [BOS, *tokenizer.encode(out), EOS]
    return ids, [0, *(tags[start] for start in starts), 0]


# -- grammars by chance ---------------------------------------------------------------------------


@st.composite
def grammars(draw, pool=tuple(POOL)):
    """A raw grammar: few words, so that templates, draws and rows often share them."""
    words, weight = st.sampled_from(pool), st.sampled_from([1, 2, 5, 0.5])
    tables = {}
    for name in ["one", "two"][: draw(st.integers(1, 2))]:
        columns = ["a", "b"][: draw(st.integers(1, 2))]
        rows = draw(st.lists(st.tuples(*[words] * len(columns)), min_size=1, max_size=3))
        tables[name] = {"columns": columns, "rows": [list(row) for row in rows]}
        if draw(st.booleans()):
            tables[name]["weights"] = [draw(weight) for _ in rows]
        if draw(st.booleans()):
            tables[name]["tags"] = {columns[0]: draw(st.sampled_from(["B-PER", "B-LOC", "I-ORG"]))}
    frames = {
        f"f{i}": draw(one_frame(tables, words, weight)) for i in range(draw(st.integers(1, 3)))
    }
    return {"edition": "test", "paper": "The Brute", "tables": tables, "frames": frames}


@st.composite
def one_frame(draw, tables, words, weight):
    declared = draw(
        st.dictionaries(st.sampled_from("xyz"), st.sampled_from(sorted(tables)), max_size=3)
    )
    cells = [words]
    for name, table in declared.items():
        cells.append(st.sampled_from([f"{{{name}.{c}}}" for c in tables[table]["columns"]]))
    cell, end = st.one_of(cells), st.sampled_from(["", "", ".", ","])
    text = st.builds(lambda c, e: " ".join(c) + e, st.lists(cell, min_size=1, max_size=4), end)
    full = st.fixed_dictionaries({"text": text, "weight": weight})
    slot = st.lists(st.one_of(text, full), min_size=1, max_size=2)
    slots = draw(st.lists(slot, min_size=1, max_size=2))
    used = {name for name, _ in REFERENCE.findall(json.dumps(slots))}
    draws = {name: table for name, table in declared.items() if name in used}
    return {"weight": draw(weight), "draws": draws, "slots": slots}


# -- TOML -----------------------------------------------------------------------------------------


def toml(raw):
    """A nested dict as a TOML text."""
    return "\n".join(f"{json.dumps(key)} = {value(item)}" for key, item in raw.items())


def value(item):
    if isinstance(item, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {value(v)}" for k, v in item.items()) + "}"
    if isinstance(item, list):
        return "[" + ", ".join(value(v) for v in item) + "]"
    if isinstance(item, float):
        return repr(item)  # inf and nan are written alike
    return json.dumps(item, ensure_ascii=False)
