"""A training step of `mylib.model.GPT` against transformers' GPT2LMHeadModel, side by side.

    python -m mylib.experiments.step_benchmark       (about 4 minutes of one core)

Both hold the same weights (the losses are asserted equal first), see the same ids and compute the
same cross-entropy; fp32, one thread, no dropout, no cache. One round times every contestant once,
and each round begins with another one. Our model runs twice: how far ``ours again`` lies from
``ours`` is the run's own spread. Ratios are ours / theirs, so below 1 ours is faster. Processor
time is measured, which other processes disturb less than the time on the wall.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from ..files import data_path
from ..model import GPT, GPTConfig
from .results import origin, write_json

# (config, rows, tokens a row)
SHAPES = [
    (GPTConfig(vocab_size=830, n_positions=128, n_embd=128, n_layer=4, n_head=4), 16, 128),
    (GPTConfig(vocab_size=5000, n_positions=128, n_embd=384, n_layer=6, n_head=6), 4, 128),
]
TINY = [(GPTConfig(vocab_size=50, n_positions=8, n_embd=16, n_layer=1, n_head=2), 2, 8)]


def gpt2_like(model: GPT, attention: str) -> GPT2LMHeadModel:
    """transformers' GPT-2 with the sizes and the weights of ``model``."""
    sizes = asdict(model.config)
    dropout = sizes.pop("dropout")
    config = GPT2Config(
        **sizes,
        **dict(resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout),
        attn_implementation=attention,
        bos_token_id=None,
        eos_token_id=None,
    )
    theirs = GPT2LMHeadModel(config)
    linear = {n for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    # GPT-2 keeps the matrices of its linear layers transposed.
    weights = {
        f"transformer.{name}": w.T if w.dim() == 2 and name.removesuffix(".weight") in linear else w
        for name, w in model.state_dict().items()
    }
    theirs.load_state_dict(weights | {"lm_head.weight": model.wte.weight})
    return theirs.train()


def loss_of(model: nn.Module, ids: Tensor) -> Tensor:
    """Mean -log p of tokens 1 ... T-1, nats."""
    logits = model(ids) if isinstance(model, GPT) else model(ids, use_cache=False).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def step_of(model: nn.Module, ids: Tensor, with_adamw: bool) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)

    def step() -> None:
        loss_of(model, ids).backward()
        if with_adamw:
            optimizer.step()
        optimizer.zero_grad()

    return step


def interleaved(steps: dict[str, Callable], repeats: int, warmup: int) -> dict[str, list[float]]:
    """Processor seconds of every step, round by round."""
    names, seconds = list(steps), {name: [] for name in steps}
    for turn in range(-warmup, repeats):
        for i in range(len(names)):
            name = names[(turn + i) % len(names)]
            start = time.process_time()
            steps[name]()
            if turn >= 0:
                seconds[name].append(time.process_time() - start)
    return seconds


def summary(seconds: dict[str, list[float]]) -> dict:
    """Medians and quartiles, and our ratio to every other contestant with its spread."""
    ours, found = seconds["ours"], {}
    for name, theirs in seconds.items():
        found[name] = {"milliseconds": quartiles([1000 * s for s in theirs])}
        if name != "ours":
            pairs = [a / b for a, b in zip(ours, theirs, strict=True)]
            ratio = statistics.median(ours) / statistics.median(theirs)
            found[name]["ratio_of_medians"] = round(ratio, 4)
            found[name]["pairwise_ratios"] = quartiles(pairs)
    return found


def quartiles(values: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": round(middle, 4), "low": round(low, 4), "high": round(high, 4)}


def compare(config: GPTConfig, rows: int, time: int, repeats: int, warmup: int) -> list[dict]:
    """Both kinds of step at one shape."""
    found = []
    for with_adamw in (False, True):
        chance = torch.Generator().manual_seed(0)
        ids = torch.randint(config.vocab_size, (rows, time), generator=chance)
        ours, again = (GPT.init(config, torch.Generator().manual_seed(0)) for _ in range(2))
        models = {
            "ours": ours,
            "transformers sdpa": gpt2_like(ours, "sdpa"),
            "transformers eager": gpt2_like(ours, "eager"),
            "ours again": again,
        }
        losses = {name: float(loss_of(model, ids).detach()) for name, model in models.items()}
        assert max(losses.values()) - min(losses.values()) < 1e-5, losses
        steps = {name: step_of(model, ids, with_adamw) for name, model in models.items()}
        shape = {**asdict(config), "rows": rows, "tokens": time}
        kind = "forward, loss, backward" + ", AdamW" * with_adamw
        result = summary(interleaved(steps, repeats, warmup))
        found.append({"step": kind, "shape": shape, "loss": losses["ours"], **result})
        ratio = result["transformers sdpa"]["ratio_of_medians"]
        print(
            f"{config.n_layer}x{config.n_embd}, {kind}: ours / transformers sdpa = {ratio}, "
            f"ours / ours again = {result['ours again']['ratio_of_medians']}",
            flush=True,
        )
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    results = data_path("gazette.toml").parent / "results"
    parser.add_argument("--out", type=Path, default=results / "step_benchmark.json")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="one tiny shape, two repeats")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    if options.smoke:
        options.repeats, options.warmup = 2, 1
    shapes = TINY if options.smoke else SHAPES
    runs = [run for s in shapes for run in compare(*s, options.repeats, options.warmup)]
    facts = {**origin("step_benchmark", argv), "seed": 0, "clock": "processor time"}
    facts |= {"repeats": options.repeats, "warmup": options.warmup}
    write_json(options.out, {**facts, "runs": runs})


if __name__ == "__main__":
    main()
