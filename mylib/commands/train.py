"""``python -m mylib train``: train a model on your own text, with any objective."""

from __future__ import annotations

import argparse
import math
from typing import Any

import torch

from ..distributed import is_main, local_rank, world_size
from ..files import check_writable, replacing
from ..model import GPT
from ..objectives import Objective
from ..train import fit
from ..vocabulary import fingerprint, save_ranks
from .train_data import Material, in_order, is_gazette, material
from .train_judge import floor, judge, told
from .train_objective import model_of, objective_of, refuse_leaks
from .train_settings import add_flags, effective, toml

FITTED = ("batch", "accumulate", "learning-rate", "weight-decay", "clip", "warmup", "precision")
FITTED += ("compile", "seed", "checkpoint", "save-every")


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Train a model on a text, of which a part is held out, and print its loss on that part "
        "before and after. Under `accelerate launch -m mylib train ...` several processes work as "
        "one. Numbers in brackets are the defaults."
    )
    add_flags(parser)


def run(options: argparse.Namespace) -> int:
    settings = effective(options)
    if options.print_config:
        say(toml(settings))
        return 0
    _refuse(settings)
    source = material(settings)
    objective = objective_of(settings, source.encoding)
    model = model_of(settings, source.encoding).to(_device(settings))
    refuse_leaks(objective, source, settings, model.config.n_layer)
    together = f", {world_size()} processes" if world_size() > 1 else ""
    say(f"{source.about}, {source.encoding.n_vocab} kinds{together}")
    _tell("before", model, objective, source, settings)
    how = {name.replace("-", "_"): settings[name] for name in FITTED}
    fit(model, objective, source.trained, settings["steps"], row=settings["window"], **how)
    _tell("after", model, objective, source, settings)
    if line := floor(objective, source):
        say(line)
    if is_main():
        _save(model, objective, source, settings)
    return 0


def say(line: str) -> None:
    """Print, in the first process only."""
    if is_main():
        print(line, flush=True)


def _refuse(settings: dict[str, Any]) -> None:
    if settings["steps"] is None:
        raise ValueError("how many steps? --steps")
    if settings["steps"] < 1:
        raise ValueError(f"steps is at least 1, got {settings['steps']}")
    for name, value in settings.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} is a finite number, got {value}")
        if isinstance(value, int) and value.bit_length() > 63:
            raise ValueError(f"{name} is a number of 64 bits, got {value!r:.99}")
    for path in (settings["out"], settings["checkpoint"]):
        if path is not None and path.is_dir():
            raise ValueError(f"{path} is a folder; give the name of a file")
        if path is not None:
            check_writable(path)  # now, not after hours


def _device(settings: dict[str, Any]) -> torch.device:
    if settings["device"] == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: this PyTorch finds no CUDA device")
    index = local_rank() if settings["device"] == "cuda" else None
    return torch.device(settings["device"], index)


def _tell(
    when: str, model: GPT, objective: Objective, source: Material, settings: dict[str, Any]
) -> None:
    """The first process judges, the others wait for it at their next exchange."""
    if is_main():
        for line in told(objective, judge(model, objective, source, settings["window"]), source):
            say(f"{when}: {line}")


def _save(model: GPT, objective: Objective, source: Material, settings: dict[str, Any]) -> None:
    out = settings["out"]
    named = next(settings[n] for n in ("text", "tokens", "corpus", "gazette") if settings[n])
    notes = dict(objective=objective, text=getattr(named, "name", named))
    notes |= dict(vocabulary=fingerprint(source.encoding))
    if is_gazette(source.encoding):
        model.save(out, **notes)
        say(f"saved {out}")
        return
    ranks = out.with_suffix(".tiktoken")
    with replacing(ranks) as aside:  # both or none: one is of no use without the other
        save_ranks(aside, in_order(source.encoding))
        model.save(out, **notes)
    say(f"saved {out} and its tokens, {ranks}")
    say(f'to load them: GPT.load("{out}"), load_tokenizer("{ranks}")')
