"""Chapter 11: which numbers may be compared, folders to audit, curves that are too good."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..masks import bidirectional, hops
from ..objectives import MaskedLM, NextToken, Objective
from . import check, expect

__all__ = [
    "Case",
    "Reported",
    "check_audit",
    "check_compare",
    "check_diagnose",
    "sealed_curves",
    "sealed_folders",
]


# -- 11.1 --------------------------------------------------------------------------------------


class Reported(NamedTuple):
    """One number of a paper: nats per answer, and what is needed to know what it says.

    ``mark``: "exact" or "bound" (of -log p of the whole text), "other" (another question), "leak".
    ``question``: what was asked. ``answers`` of it there are; ``characters`` has the text.
    """

    name: str
    text: str
    mark: str
    question: str
    nats: float
    answers: int
    characters: int


WIKI, PLAY = ("an article", 5000), ("a play", 5000)


def _exact(name: str, nats: float, answers: int, text: tuple = WIKI, mark: str = "exact"):
    return Reported(name, text[0], mark, "the text", nats, answers, text[1])


def _other(name: str, nats: float, question: str, answers: int, mark: str = "other"):
    return Reported(name, WIKI[0], mark, question, nats, answers, WIKI[1])


NEXT, SMALL = _exact("next", 3.0, 1500), _exact("next, small", 3.4, 1500)
BYTES = _exact("bytes", 1.1, 5000)
LOOSE, TIGHT = (
    _exact("any order", 3.3, 1500, mark="bound"),
    _exact("better", 2.8, 1500, mark="bound"),
)
HOLES = _other("holes", 2.1, "15 % hidden", 225)
HOLES_TOO = _other("holes too", 2.4, "15 % hidden", 225)
REST = _other("second half", 2.7, "the rest, half given", 750)
LEAKY = _exact("open", 0.4, 1500, mark="leak")
ELSEWHERE = _exact("elsewhere", 2.5, 1500, PLAY)


@check("11.1")
def check_compare(compare: Callable[[Reported, Reported], str | None]) -> None:
    """``compare(first, second)`` -> "first", "second" (the better model for certain) or None."""

    def says(a: Reported, b: Reported) -> str | None:
        there, back = compare(a, b), compare(b, a)
        for said in (there, back):
            expect(
                said is None or said in ("first", "second"),
                f'answer "first", "second" or None, not {said!r}',
            )
        turned = {"first": "second", "second": "first", None: None}
        expect(
            turned[there] == back,
            f"asked about ({a.name}, {b.name}) and ({b.name}, {a.name}), you name different models",
        )
        return there

    expect(
        says(NEXT, SMALL) == "first",
        "two exact numbers, one text, one vocabulary: the smaller one is the better model",
    )
    expect(
        says(HOLES, NEXT) is None and says(REST, NEXT) is None,
        "you rank a masked loss, or that of a second half, against the price of the text: other "
        "words are asked, with other words given. A masked loss is no perplexity",
    )
    expect(
        says(LEAKY, NEXT) is None and says(LEAKY, LOOSE) is None,
        "you let a leak win: a network that sees its answers has no price of the text at all",
    )
    expect(
        says(LOOSE, NEXT) is None,
        "you take a bound for an equality: the price lies somewhere below the bound, and so it may "
        "lie below the exact number, too",
    )
    expect(
        says(TIGHT, NEXT) == "first",
        "a bound *below* an exact number does say something: the price lies lower still",
    )
    expect(
        says(TIGHT, LOOSE) is None,
        "two bounds: the lower one may be tight and the higher one loose. Nothing follows",
    )
    expect(
        says(NEXT, BYTES) == "first",
        f"per token you rank {BYTES.nats} under {NEXT.nats}, but one has {BYTES.answers} tokens "
        f"and the other {NEXT.answers} for the same text: take the total, or nats per character",
    )
    expect(
        says(ELSEWHERE, NEXT) is None,
        "two texts: the one may be the easier text, and not the better model",
    )
    expect(
        says(HOLES, HOLES_TOO) == "first",
        "the same question at the same answers may be ranked, though it is no price of the text: "
        "both are asked for the same words",
    )
    expect(
        says(HOLES, REST) is None,
        "two different questions: which words are asked, and what is given with them?",
    )


# -- 11.2 --------------------------------------------------------------------------------------

WORDS = ("open", "partly", "closed")
LAYERS = ("chunked_attention", "full_attention")


def _saved(root: Path, name: str, kind: str, opened: bool, layers: tuple[str, ...] = ()) -> Path:
    """A tiny model of transformers in a folder; ``opened``: with the switch in its config."""
    from transformers.utils import logging

    from .. import zoo

    logging.disable_progress_bar()
    model = zoo.tiny(kind)
    if layers:  # who looks where is said by the config; the weights fit either way
        model.config.layer_types = list(layers)
    if opened:
        model.config.is_causal = False
    model.save_pretrained(root / name)
    return root / name


@functools.cache
def _folders() -> tuple[tempfile.TemporaryDirectory, dict[str, Path], Path]:
    keep = tempfile.TemporaryDirectory(prefix="chapter11-")
    root = Path(keep.name)
    three = {
        "north": _saved(root, "north", "llama", opened=False),
        "middle": _saved(root, "middle", "llama4_text", opened=True),
        "south": _saved(root, "south", "gpt2", opened=True),
    }
    unseen = _saved(root, "unseen", "llama4_text", opened=True, layers=LAYERS[::-1])
    return keep, three, unseen


def sealed_folders() -> dict[str, Path]:
    """The three folders of exercise 11.2: tiny models of transformers with random weights."""
    return dict(_folders()[1])


@check("11.2")
def check_audit(verdict: Callable[[Path], str]) -> None:
    """``verdict(folder)`` -> "open" (every layer), "partly", or "closed" (no layer)."""
    _, folders, unseen = _folders()
    said = {name: verdict(folder) for name, folder in folders.items()}
    for name, answer in said.items():
        expect(answer in WORDS, f'answer "open", "partly" or "closed", not {answer!r} ({name})')
    expect(
        said["north"] == "closed",
        "north: nobody has touched this model, and you do not call it closed. In the whole model "
        "and in every layer each word sees only what stands before it",
    )
    expect(
        said["middle"] != "open",
        "middle: one open path does not make a converted model. The whole model is lit because "
        "*one* layer is open; ask each layer by itself, the report has a case for each",
    )
    expect(
        said["middle"] != "closed",
        "middle: not as expected is not the same as untouched: in one of its layers each word "
        "sees each word",
    )
    expect(
        said["south"] == "open",
        "south: every layer of this model is open, alone and beside padding, and you do not say "
        "so. (Nobody sees a pad; that is as it should be.)",
    )
    expect(
        verdict(unseen) == "partly",
        "a fourth folder, in which the *last* layer is the closed one, is not what you say: look "
        "at all layers, by what they do and not by their number or the name of the folder",
    )


# -- 11.3 --------------------------------------------------------------------------------------

VERDICTS = ("mask", "overlap", "honest")
ROW = 12  # tokens of a row for the leak check


@dataclass(frozen=True)
class Case:
    """A training run that looks too good. The texts are lists of documents, int (T,).

    ``curve``: validation loss, nats per answer; ``objective`` and ``layers``: what was trained;
    ``rows``: a few short rows of the validation text, for the leak check.
    """

    name: str
    curve: tuple[float, ...]
    objective: Objective
    train: list[Tensor] = field(repr=False)
    valid: list[Tensor] = field(repr=False)
    layers: int = 3

    @property
    def rows(self):
        return self.objective.alone([text[:ROW] for text in self.valid[:2]], ROW)


def _text(tokens: int, seed: int) -> Tensor:
    """Words by frequency, the r-th most frequent with chance 1 / (r + 3)."""
    chance = torch.Generator().manual_seed(seed)
    weights = 1 / (torch.arange(700) + 3.0)
    return 10 + torch.multinomial(weights, tokens, True, generator=chance)


def _with_phrases(text: Tensor, seed: int) -> Tensor:
    """One of four set phrases of five words at every thirtieth place."""
    text, chance = text.clone(), torch.Generator().manual_seed(seed)
    phrases = torch.arange(900, 920).view(4, 5)
    for start in range(7, len(text) - 5, 30):
        text[start : start + 5] = phrases[int(torch.randint(4, (1,), generator=chance))]
    return text


def _documents(text: Tensor) -> list[Tensor]:
    return list(text.split(200))


def _curve(end: float) -> tuple[float, ...]:
    return tuple(round(end + (6.5 - end) * 0.55**n, 3) for n in range(12))


@functools.cache
def _curves() -> tuple[Case, ...]:
    train, valid = _text(8000, 1), _text(1000, 2)
    moved = torch.cat([train[:3070], valid, train[3070:]])  # the copies begin in mid-document
    some = train.clone()
    for n in range(5):  # 50 words of each of the five validation documents
        some[1500 * n + 333 : 1500 * n + 383] = valid[200 * n + 90 : 200 * n + 140]
    phrases = _with_phrases(train, 3), _with_phrases(valid, 4)
    plain = _documents(train), _documents(valid)
    return (
        Case("ash", _curve(1.7), NextToken(), *plain),
        Case("beech", _curve(2.7), NextToken(bidirectional), *plain),
        Case("cedar", _curve(3.2), NextToken(~hops(1)), *plain),
        Case("elm", _curve(2.2), NextToken(), _documents(moved), plain[1]),
        Case("fir", _curve(4.2), NextToken(), _documents(some), plain[1]),
        Case("hazel", _curve(1.2), MaskedLM(0.15, (1, 0, 0)), *plain),
        Case("oak", _curve(3.7), NextToken(), *map(_documents, phrases)),
    )


TRUTH = dict(ash="honest", beech="mask", cedar="mask", elm="overlap", fir="overlap")
TRUTH |= dict(hazel="honest", oak="honest")


def sealed_curves() -> list[Case]:
    """The seven runs of exercise 11.3. Their curves are drawn for the exercise."""
    return list(_curves())


@check("11.3")
def check_diagnose(diagnose: Callable[[Case], str]) -> None:
    """``diagnose(case)`` -> "mask", "overlap" or "honest"."""
    said = {case.name: diagnose(case) for case in _curves()}
    for name, answer in said.items():
        expect(answer in VERDICTS, f"{name}: answer one of {VERDICTS}, not {answer!r}")
    honest = {name for name, answer in said.items() if answer == "honest"}
    expect(
        len(honest) < len(said),
        "it is just a better model, you say of all seven. It may be; but two other things lower a "
        "validation loss, and both leave evidence outside the curve",
    )
    expect(
        not {"elm", "fir"} <= honest or "beech" in honest,
        "you have looked for leaks through the mask, and forgotten that passages of the validation "
        "text may stand in the training text",
    )
    expect(
        said["beech"] == "mask",
        "beech: its answers reach their questions through the mask, and the leak check says so. "
        f"You say {said['beech']}",
    )
    expect(
        said["cedar"] == "mask",
        "cedar: in one layer no answer is told; this network has three (case.layers)",
    )
    expect(
        said["hazel"] != "mask",
        "hazel: an open mask is no leak. Its objective hides what it asks for, and the leak check "
        "finds no path",
    )
    expect(
        said["oak"] != "overlap",
        "oak: a few set phrases of five words stand in any two texts of one kind. Ask for longer "
        "runs",
    )
    expect(
        said["ash"] == "honest" and said["hazel"] == "honest" and said["oak"] == "honest",
        "you condemn a run without evidence: no path, and no passage in common. A low curve alone "
        "is no proof",
    )
    expect(
        said["elm"] == "overlap",
        "elm: its copies begin in the middle of training documents, so whole documents or windows "
        "differ. Compare every run of n words",
    )
    expect(
        said["fir"] == "overlap",
        "fir: a quarter of the validation words is copied. That is quite enough to lower a loss, "
        "and more than chance gives",
    )
