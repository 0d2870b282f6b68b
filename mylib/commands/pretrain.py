"""``python -m mylib pretrain``: the shipped checkpoints, from nothing."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ..files import data_path, read_safetensors, replacing
from ..gazette import EDITIONS, Gazette
from ..model import FORMAT, GPT, GPTConfig
from ..objectives import (
    AbsorbingDiffusion,
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
    measure_denoiser,
    measure_diffusion,
    measure_dual,
    measure_masked,
    measure_mixed,
    measure_prefix,
)


@dataclass(frozen=True)
class Recipe:
    """How one checkpoint is made: its edition, objective and training length.

    ``start``: the shipped checkpoint it goes on from; random weights if not given. ``again``: steps
    and learning rate of a second round, with a new rise and fall and other documents. ``half``: the
    file holds float16, for models that need many steps and little precision.
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
    again: tuple[int, float] | None = None
    half: bool = False


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
    # These two read four times as many documents a step as the others; on one core they take hours
    # (about four and six), on a GPU minutes. The shipped ones were trained on a GPU.
    "denoiser": Recipe(
        "sunday",
        Denoising(),
        measure_denoiser,
        steps=6900,
        batch=256,
        row=34,
        learning_rate=5e-3,
        seed=1,
        start="mixed",
        half=True,
    ),
    "diffusion": Recipe(
        "sunday",
        AbsorbingDiffusion(),
        measure_diffusion,
        steps=7300,
        batch=256,
        row=34,
        learning_rate=5e-3,
        seed=1,
        start="mixed",
        again=(3100, 2.5e-3),
        half=True,
    ),
}


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", default=list(RECIPES), help=f"of {list(RECIPES)}")
    parser.add_argument(
        "--out", type=Path, default=data_path("gazette.toml").parent / "checkpoints"
    )
    parser.add_argument("--steps", type=int, help="train shorter or longer (to try the command)")
    parser.add_argument("--device", default="cpu", help="where to train: cpu (default), cuda, ...")
    parser.add_argument(
        "--measure", action="store_true", help="measure the checkpoints that are there, train none"
    )


def run(options: argparse.Namespace) -> int:
    torch.set_num_threads(1)
    if unknown := set(options.names) - RECIPES.keys():
        raise ValueError(f"unknown checkpoint {sorted(unknown)}; known: {sorted(RECIPES)}")
    if torch.device(options.device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: there is no CUDA device here")
    for name in options.names:
        if not options.measure:
            build(name, options.out, options.steps, options.device)
        print(json.dumps(measure(name, options.out), indent=2))
    return 0


def build(name: str, out: Path, steps: int | None = None, device: str = "cpu") -> None:
    """Train one checkpoint into ``out``; a killed run goes on where it was.

    ``steps``: instead of the recipe's, of its first and only round.
    """
    recipe = RECIPES[name]
    gazette = Gazette.load(recipe.edition)
    if recipe.start:
        model = GPT.load(data_path(f"checkpoints/{recipe.start}.safetensors"))
    else:
        config = GPTConfig(gazette.vocab_size, n_positions=64)
        model = GPT.init(config, torch.Generator().manual_seed(recipe.seed))
    model.to(device)
    rounds = [(recipe.steps, recipe.learning_rate), *([recipe.again] if recipe.again else [])]
    if steps is not None:
        rounds = [(steps, recipe.learning_rate)]
    unfinished = [out / f".{name}.{number}.run.safetensors" for number in range(len(rounds))]
    for number, (count, rate) in enumerate(rounds):
        fit(
            model,
            recipe.objective,
            gazette,
            count,
            batch=recipe.batch,
            row=recipe.row,
            learning_rate=rate,
            seed=recipe.seed + number,
            checkpoint=unfinished[number],
        )
    made = {
        "steps": "+".join(str(count) for count, _ in rounds),
        "device": torch.device(device).type,
        "torch": torch.__version__.split("+")[0],
    }
    model.save(out / f"{name}.safetensors", half=recipe.half, **provenance(recipe), **made)
    for file in unfinished:
        file.unlink()


def measure(name: str, out: Path) -> dict:
    """Measure the checkpoint of this name in ``out``, and write what was found beside it."""
    recipe, path = RECIPES[name], out / f"{name}.safetensors"
    _, header = read_safetensors(path, FORMAT)
    made = {key: header[key] for key in ("steps", "device", "torch") if key in header}
    facts = {
        "command": f"python -m mylib pretrain {name}",
        **made,
        **recipe.measure(GPT.load(path), Gazette.load(recipe.edition)),
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
