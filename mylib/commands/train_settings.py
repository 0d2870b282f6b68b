"""The settings of ``python -m mylib train``: flags, a TOML file of the same names, defaults.

A flag wins over the file, the file over the default. `toml` writes what holds so that it can be
read again.
"""

from __future__ import annotations

import argparse
import ast
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..files import read_toml


class Flag(NamedTuple):
    """One setting: ``kind`` is the type of its value, ``default`` None if there is none."""

    kind: type
    default: Any
    help: str
    choices: tuple[str, ...] = ()


OBJECTIVES = ("next", "previous", "both", "masked", "next-masked", "prefix", "denoising")
OBJECTIVES += ("diffusion",)
FLAGS = {
    "text": Flag(Path, None, "a file, or a folder of *.txt; its last tenth is held out"),
    "tokens": Flag(Path, None, "a token file (mylib.datasets.write_tokens) instead"),
    "corpus": Flag(str, None, "a public corpus instead", ("tinyshakespeare", "wikitext2")),
    "gazette": Flag(str, None, "an edition of the Gazette instead", ("evening", "sunday")),
    "tokenizer": Flag(str, "gazette", "gazette, gpt2, or a FILE.tiktoken"),
    "vocabulary": Flag(int, None, "keep the first so many tokens of it"),
    "compact": Flag(bool, False, "keep the tokens that the training text uses"),
    "objective": Flag(str, "next", "what is asked", OBJECTIVES),
    "init": Flag(Path, None, "go on from a model of ours (a .safetensors file)"),
    "gpt2": Flag(str, None, "go on from GPT-2 weights: a folder of transformers, or a hub name"),
    "steps": Flag(int, None, "updates of the weights"),
    "window": Flag(int, 128, "tokens of a row"),
    "layers": Flag(int, 4, "of a new model"),
    "width": Flag(int, 128, "of a new model"),
    "heads": Flag(int, 4, "of a new model"),
    "batch": Flag(int, 16, "documents a step, of all processes together"),
    "accumulate": Flag(int, 1, "slices each process cuts its rows into, to save memory"),
    "learning-rate": Flag(float, None, "greatest (0.01; 0.001 with --init or --gpt2)"),
    "weight-decay": Flag(float, 0.0, "of all parameters"),
    "clip": Flag(float, 1.0, "greatest gradient norm"),
    "warmup": Flag(float, 0.05, "share of the steps in which the learning rate rises"),
    "dropout": Flag(float, 0.0, "while training"),
    "precision": Flag(str, None, "by default the launcher's, else no", ("no", "bf16", "fp16")),
    "compile": Flag(bool, False, "torch.compile for the blocks"),
    "device": Flag(str, "cpu", "where no launcher decides", ("cpu", "cuda")),
    "seed": Flag(int, 0, "of weights, documents and noise"),
    "checkpoint": Flag(Path, None, "kept while training; a killed run goes on"),
    "save-every": Flag(int, 200, "steps between two checkpoints"),
    "allow-leaks": Flag(bool, False, "train an objective whose answers reach their questions"),
    "out": Flag(Path, Path("model.safetensors"), "the model; its tokens go beside it"),
}
SOURCES = ("text", "tokens", "corpus", "gazette")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """One flag for each setting, none with a default: what is not said may be in the file."""
    parser.set_defaults(set=[])
    for name, flag in FLAGS.items():
        told = flag.help if flag.default in (None, False) else f"{flag.help} ({flag.default})"
        how: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
        if flag.kind is not bool:
            metavar = None if flag.choices else flag.kind.__name__.upper()
            how = {"type": flag.kind, "choices": flag.choices or None, "metavar": metavar}
        parser.add_argument(f"--{name}", dest=name, default=None, help=told, **how)
    told = "a setting of the objective, such as rate=0.3; may be repeated"
    parser.add_argument("--set", action="append", metavar="NAME=VALUE", help=told)
    parser.add_argument("--config", type=Path, help="a TOML file with settings of these names")
    parser.add_argument("--print-config", action="store_true", help="show all settings, and stop")


def effective(options: argparse.Namespace) -> dict[str, Any]:
    """All settings by name; ``set`` holds those of the objective.

    Raises `ValueError` for a file that is no TOML, for names it should not have, and for values of
    another type than the flag's.
    """
    said = vars(options)
    given = {name: said[name] for name in FLAGS if said[name] is not None}
    found = {name: flag.default for name, flag in FLAGS.items()} | {"set": {}}
    if options.config is not None:
        found |= _read(options.config)
    if any(name in given for name in SOURCES):  # another source, not a second one
        found |= dict.fromkeys(SOURCES)
    found |= given
    found["set"] = found["set"] | dict(map(_pair, options.set))
    if found["learning-rate"] is None:
        found["learning-rate"] = 1e-2 if found["init"] is found["gpt2"] is None else 1e-3
    return found


def toml(settings: Mapping[str, Any]) -> str:
    """The settings as a file for ``--config``; those without a value are left out."""
    lines = [f"{k} = {_written(v)}" for k, v in settings.items() if k != "set" and v is not None]
    if settings["set"]:
        lines += ["", "[set]", *(f"{k} = {_written(v)}" for k, v in settings["set"].items())]
    return "\n".join(lines)


def _read(path: Path) -> dict[str, Any]:
    found = read_toml(path)
    if unknown := sorted(found.keys() - FLAGS.keys() - {"set"}):
        raise ValueError(
            f"{path}: unknown setting {unknown[0]!r:.99}; known: {', '.join(FLAGS)}, set"
        )
    if not isinstance(found.get("set", {}), dict):
        raise ValueError(f"{path}: set is a table ([set]) of the objective's settings")
    return {k: v if k == "set" else _checked(path, k, v) for k, v in found.items()}


def _checked(path: Path, name: str, value: Any) -> Any:
    flag = FLAGS[name]
    wanted = {Path: str, float: (int, float)}.get(flag.kind, flag.kind)
    if not isinstance(value, wanted) or (isinstance(value, bool) and flag.kind is not bool):
        raise ValueError(f"{path}: {name} is of type {flag.kind.__name__}, got {value!r:.200}")
    if flag.choices and value not in flag.choices:
        raise ValueError(f"{path}: {name} is one of {', '.join(flag.choices)}, got {value!r:.99}")
    try:
        return flag.kind(value)
    except OverflowError:
        raise ValueError(
            f"{path}: {name} is a number, got one of {len(str(value))} digits"
        ) from None


def _pair(text: str) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    if not (sign and name.isidentifier()):
        raise ValueError(f"--set takes NAME=VALUE, such as rate=0.3, not {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value  # a word


def _written(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_written, value))}]"
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    if not isinstance(value, str | Path):
        raise ValueError(f"{value!r} cannot be written as TOML")
    return json.dumps(str(value), ensure_ascii=False)
