"""FlexAttention beside SDPA under every mask of the course: the same numbers, and what they cost.

    python -m mylib.experiments.flex                 (on a GPU; a few minutes)
    python -m mylib.experiments.flex --smoke         (CPU: forward alone, not compiled)

One object serves both: `block_mask` for the compiled ``flex_attention``, `dense` for SDPA. Output
and gradients of q, k, v are compared with SDPA in float32 on the same numbers (largest difference,
as a share of the largest value); float64 SDPA says how far float32 itself is off. Times are medians
of forward and backward together, memory is the peak of one such step, sparsity the share of blocks
that FlexAttention skips. FlexAttention has no backward on a CPU.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import patch

import torch
import torch._dynamo
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from .. import masks
from ..files import data_path
from ..masks import Mask, block_mask, dense
from .results import origin, write_json

# The package gives the function in the place of its module.
flex_module = importlib.import_module("torch.nn.attention.flex_attention")
HEADS, CHANNELS = 8, 64  # of the attention, and of a head
CLOSE = 1e-4  # of the largest value; float32


def all_masks(rows: int, tokens: int, device: str = "cpu") -> dict[str, Mask]:
    """Every builder of `mylib.masks`, those with tensors for each row among them."""
    # Its matrix is no tensor of rows, which `Mask.to` would move.
    triangle = torch.ones(tokens, tokens, dtype=torch.bool, device=device).tril()
    chance = torch.Generator().manual_seed(0)
    place = torch.arange(tokens).expand(rows, tokens)
    lengths = torch.randint(tokens // 2, tokens + 1, (rows,), generator=chance)
    given = torch.randint(1, tokens // 4, (rows,), generator=chance)
    ids = (place // (tokens // 4)).masked_fill(place >= lengths[:, None], -1)
    window = max(tokens // 8, 1)
    return {
        "causal": masks.causal,
        "anticausal": masks.anticausal,
        "bidirectional": masks.bidirectional,
        "sliding_window": masks.sliding_window(window, 0),
        "hops": masks.hops(-1, 0, 2),
        "prefix_lm": masks.prefix_lm(tokens // 4),
        "prefix_lm, a length for each row": masks.prefix_lm(given),
        "prefix_lm, tokens for each row": masks.prefix_lm(place < given[:, None]),
        "block_causal": masks.block_causal(window),
        "causal_head": masks.causal_head(tokens // 4),
        "flipped": masks.flipped(masks.causal, tokens, keys=False),
        "flipped, a length for each row": masks.flipped(masks.causal, lengths),
        "padding": masks.padding(place < lengths[:, None]),
        "documents": masks.documents(ids),
        "documents, each causal": masks.causal & masks.documents(ids),
        "documents, each prefix_lm": masks.documents(ids, masks.prefix_lm(place < 3)),
        "from_dense": masks.from_dense(triangle),
        "not padding": ~masks.padding(place < lengths[:, None]) | masks.causal,
    }


def inputs(rows: int, tokens: int, device: str) -> list[Tensor]:
    """q, k, v and the gradient of the output: float32 (rows, HEADS, tokens, CHANNELS)."""
    chance = torch.Generator().manual_seed(1)
    shape = (rows, HEADS, tokens, CHANNELS)
    return [torch.randn(shape, generator=chance).to(device) for _ in range(4)]


def sdpa(q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
    """Attention under a dense mask; a query that may look at nobody gets zeros, as with Flex."""
    seen = visible.any(-1, keepdim=True)
    return F.scaled_dot_product_attention(q, k, v, visible | ~seen).masked_fill(~seen, 0.0)


def step_of(attend: Callable, mask: Tensor | BlockMask, given: list[Tensor]) -> Callable:
    """A function that gives the output and the gradients of q, k and v."""

    def step() -> list[Tensor]:
        q, k, v = (t.clone().requires_grad_() for t in given[:3])
        out = attend(q, k, v, mask)
        out.backward(given[3])
        return [out.detach(), q.grad, k.grad, v.grad]

    return step


def apart(ones: list[Tensor], others: list[Tensor]) -> list[float]:
    """Largest difference of each pair, as a share of the largest value of the second."""
    pairs = zip(ones, others, strict=True)
    return [float((a - b).abs().max() / b.abs().max().clamp(min=1e-30)) for a, b in pairs]


def measured(step: Callable, repeats: int) -> dict[str, float]:
    """Median milliseconds of a step, and its greatest memory, MiB."""
    step()
    torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        step()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() / 2**20
    return {"milliseconds": round(1000 * statistics.median(seconds), 3), "MiB": round(peak, 1)}


def compare(name: str, mask: Mask, rows: int, tokens: int, repeats: int) -> dict:
    """Both attentions, forward and backward, under one mask on the GPU."""
    torch._dynamo.reset()  # it compiles one function for at most 8 rules
    given = inputs(rows, tokens, "cuda")
    blocks = block_mask(mask.to("cuda"), tokens, device="cuda")
    visible = dense(mask.to("cuda"), torch.arange(tokens, device="cuda"))
    compiled = torch.compile(flex_attention)
    flex = step_of(lambda q, k, v, m: compiled(q, k, v, block_mask=m), blocks, given)
    plain = step_of(sdpa, visible, given)
    exact = step_of(sdpa, visible, [t.double() for t in given])()
    names = ("output", "q", "k", "v")
    errors = {
        n: dict(zip(names, apart(s(), exact), strict=True))
        for n, s in {"flex": flex, "sdpa": plain}.items()
    }
    if (worst := max(errors["flex"].values())) > CLOSE:
        raise ValueError(f"{name}, {tokens} tokens: FlexAttention is off by {worst:.2g}")
    return {
        **dict(mask=name, rows=rows, tokens=tokens, errors=errors),
        "skipped_percent": round(float(blocks.sparsity()), 2),
        "flex": measured(flex, repeats),
        "sdpa": measured(plain, repeats),
    }


def smoke(rows: int = 2, tokens: int = 256) -> dict[str, float]:
    """Largest error of each mask's output on the CPU, where FlexAttention only goes forward."""
    found = {}
    q, k, v, _ = inputs(rows, tokens, "cpu")
    # Uncompiled, it would still be traced by Dynamo, anew for every mask.
    untraced = patch.object(flex_module, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    for name, mask in all_masks(rows, tokens).items():
        with torch.no_grad(), untraced:
            out = flex_attention(q, k, v, block_mask=block_mask(mask, tokens))
        found[name] = apart([out], [sdpa(q, k, v, dense(mask, tokens))])[0]
        if not found[name] <= CLOSE:
            raise ValueError(f"{name}: FlexAttention is off by {found[name]:.2g}")
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    results = data_path("gazette.toml").parent / "results"
    parser.add_argument("--out", type=Path, default=results / "flex.json")
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--smoke", action="store_true", help="CPU, forward alone; no file")
    options = parser.parse_args(argv)
    if options.smoke:
        for name, error in smoke().items():
            print(f"{name}: {error:.1e}")
        return
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device: FlexAttention has no backward on a CPU (see --smoke)")
    torch.backends.cuda.matmul.allow_tf32 = False
    runs = []
    for tokens in options.tokens:
        for name, mask in all_masks(options.rows, tokens, "cuda").items():
            runs.append(compare(name, mask, options.rows, tokens, options.repeats))
            print(name, tokens, runs[-1]["flex"], runs[-1]["sdpa"], flush=True)
    shape = {"heads": HEADS, "channels": CHANNELS, "dtype": "float32", "repeats": options.repeats}
    facts = {**origin("flex", argv), "device": torch.cuda.get_device_name(), **shape}
    write_json(options.out, {**facts, "runs": runs})


if __name__ == "__main__":
    main()
