"""``python -m mylib pretrain``: the shipped checkpoints, from nothing."""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from ..files import data_path, replacing
from ..gazette import EDITIONS, Gazette
from ..metrics import paired_excess
from ..model import GPT, GPTConfig
from ..objectives import NextToken, Objective
from ..sampling import generate
from ..tokenizer import BOS
from ..train import evaluate, fit


@dataclass(frozen=True)
class Recipe:
    """How one checkpoint is made: its edition, objective and training length."""

    edition: str
    objective: Objective
    steps: int
    batch: int = 64
    learning_rate: float = 1e-2
    seed: int = 0


RECIPES = {"causal": Recipe("sunday", NextToken(), steps=5000)}


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
    config = GPTConfig(gazette.vocab_size, n_positions=64)
    model = GPT.init(config, torch.Generator().manual_seed(recipe.seed))
    unfinished = out / f".{name}.run.safetensors"
    fit(
        model,
        recipe.objective,
        gazette,
        steps,
        batch=recipe.batch,
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
        **measure(model, gazette, recipe.objective),
    }
    with replacing(out / f"{name}.json") as aside:
        aside.write_text(json.dumps(facts, indent=2) + "\n")
    return facts


def provenance(recipe: Recipe) -> dict[str, str]:
    """What a checkpoint depends on; a changed grammar or vocabulary makes it stale."""
    files = {"grammar": EDITIONS[recipe.edition], "ranks": "gazette.tiktoken"}
    hashes = {k: hashlib.sha256(data_path(f).read_bytes()).hexdigest() for k, f in files.items()}
    return {"edition": recipe.edition, "objective": repr(recipe.objective), **hashes}


def measure(model: GPT, gazette: Gazette, objective: Objective, n: int = 4000) -> dict:
    """Excess over the floor on ``n`` fresh documents, paired, and the valid share of samples."""
    fresh = gazette.sample(n, torch.Generator().manual_seed(2**31))
    mine = evaluate(model, objective, fresh)
    excess = paired_excess(mine, -gazette.log_prob(gazette.canvas(fresh)))
    prompts = torch.full((1000, 1), BOS)
    chance = torch.Generator().manual_seed(2**31)
    written = generate(model, prompts, gazette.length, generator=chance).ids
    valid = gazette.is_valid(written)
    return {
        "floor": round(gazette.entropy, 4),
        "excess": round(excess.mean, 4),
        "excess_interval": [round(excess.low, 4), round(excess.high, 4)],
        "valid": round(float(valid.double().mean()), 4),
        "documents": n,
        "samples": len(prompts),
    }
