"""``python -m mylib pretrain``: the shipped checkpoints, from nothing."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ..files import data_path, replacing
from ..gazette import EDITIONS, Gazette
from ..model import GPT, GPTConfig
from ..objectives import (
    Denoising,
    ForwardBackward,
    MaskedLM,
    Mixed,
    NextToken,
    Objective,
    PrefixLM,
)
from ..train import fit
from .measures import (
    measure_causal,
    measure_dual,
    measure_masked,
    measure_mixed,
    measure_prefix,
)


@dataclass(frozen=True)
class Recipe:
    """How one checkpoint is made: its edition, objective and training length.

    ``start``: the shipped checkpoint it goes on from; random weights if not given.
    """

    edition: str
    objective: Objective
    measure: Callable[[GPT, Gazette], dict]
    steps: int
    batch: int = 64
    row: int | None = None
    learning_rate: float = 1e-2
    seed: int = 0
    start: str | None = None


RECIPES = {
    "causal": Recipe("sunday", NextToken(), measure_causal, steps=5000),
    "mixed": Recipe(
        "sunday",
        Mixed(ForwardBackward(p_bw=1.0), Denoising()),
        measure_mixed,
        steps=6000,
        batch=32,
        row=34,
    ),
    "mlm": Recipe(
        "sunday",
        MaskedLM(rate=0.3),
        measure_masked,
        steps=2000,
        learning_rate=3e-3,
        seed=1,  # other documents than the mixed model has seen
        start="mixed",
    ),
    "prefix": Recipe(
        "sunday",
        PrefixLM(),
        measure_prefix,
        steps=1500,
        learning_rate=3e-3,
        seed=1,
        start="causal",
    ),
    "dual": Recipe("sunday", ForwardBackward(p_bw=1.0), measure_dual, steps=5000),
}


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", default=list(RECIPES), help=f"of {list(RECIPES)}")
    parser.add_argument(
        "--out", type=Path, default=data_path("gazette.toml").parent / "checkpoints"
    )
    parser.add_argument("--steps", type=int, help="train shorter or longer (to try the command)")


def run(options: argparse.Namespace) -> int:
    torch.set_num_threads(1)
    if unknown := set(options.names) - RECIPES.keys():
        raise ValueError(f"unknown checkpoint {sorted(unknown)}; known: {sorted(RECIPES)}")
    for name in options.names:
        facts = build(name, options.out, options.steps)
        print(json.dumps(facts, indent=2))
    return 0


def build(name: str, out: Path, steps: int | None = None) -> dict:
    """Train one checkpoint into ``out`` and measure it; a killed run goes on where it was."""
    recipe = RECIPES[name]
    steps = recipe.steps if steps is None else steps
    gazette = Gazette.load(recipe.edition)
    if recipe.start:
        model = GPT.load(data_path(f"checkpoints/{recipe.start}.safetensors"))
    else:
        config = GPTConfig(gazette.vocab_size, n_positions=64)
        model = GPT.init(config, torch.Generator().manual_seed(recipe.seed))
    unfinished = out / f".{name}.run.safetensors"
    fit(
        model,
        recipe.objective,
        gazette,
        steps,
        batch=recipe.batch,
        row=recipe.row,
        learning_rate=recipe.learning_rate,
        seed=recipe.seed,
        checkpoint=unfinished,
    )
    model.save(out / f"{name}.safetensors", **provenance(recipe))
    unfinished.unlink()
    facts = {
        "command": f"python -m mylib pretrain {name}",
        "torch": torch.__version__.split("+")[0],
        "steps": steps,
        **recipe.measure(model, gazette),
    }
    with replacing(out / f"{name}.json") as aside:
        aside.write_text(json.dumps(facts, indent=2) + "\n")
    return facts


def provenance(recipe: Recipe) -> dict[str, str]:
    """What a checkpoint depends on; a changed grammar or vocabulary makes it stale."""
    files = {"grammar": EDITIONS[recipe.edition], "ranks": "gazette.tiktoken"}
    if recipe.start:
        files["start"] = f"checkpoints/{recipe.start}.safetensors"
    hashes = {k: hashlib.sha256(data_path(f).read_bytes()).hexdigest() for k, f in files.items()}
    return {"edition": recipe.edition, "objective": repr(recipe.objective), **hashes}
