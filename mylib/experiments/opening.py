"""One line of Shakespeare, embedded twice: alone, and in a batch beside longer lines.

    python -m mylib.experiments.opening          (about 3 minutes a seed on one core)

The causal GPT of `mylib.experiments.shakespeare` becomes a GPT-2 of transformers (`to_gpt2`). Its
final hidden states, averaged over the words of a line, are the line's embedding. 400 held-out lines
are embedded one by one, without an attention_mask, and again in batches of 32, padded on the right.
The model is untouched, or has ``module.is_causal = False`` in every attention and nothing else, or
was opened by `make_bidirectional`. Judged: how far the two embeddings of a line are apart, as a
share of their length (median over lines), and how often the nearest of the 400 embeddings made
alone is that of the same line. It says how consistent a conversion is, not how useful.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from ..convert import make_bidirectional, to_gpt2
from ..datasets import Stream, tiny_shakespeare
from ..files import data_path
from ..model import GPT, GPTConfig
from ..objectives import NextToken
from ..tokenizer import decode, encode, load_tokenizer
from ..train import fit
from .results import Table, origin
from .shakespeare import WINDOW

BATCH = 32


def flag_only(model) -> None:
    """What one reads in public code: the flag of every attention module, and nothing else."""
    for module in model.modules():
        if getattr(module, "is_causal", None) is True:
            module.is_causal = False


CONVERSIONS: dict[str, Callable] = {
    "untouched": lambda model: None,
    "module flag only": flag_only,
    "make_bidirectional": make_bidirectional,
}


def lines_of(held_out: Stream, count: int) -> list[Tensor]:
    """``count`` different lines of 8 to 40 tokens, as they come."""
    found: dict[tuple[int, ...], None] = {}
    for line in decode(held_out.ids.tolist()).splitlines():
        ids = tuple(encode(line))
        if 8 <= len(ids) <= 40:
            found[ids] = None
    return [torch.tensor(ids) for ids in list(found)[:count]]


def embed(model, lines: Sequence[Tensor], batch: int) -> Tensor:
    """Mean hidden state of each line (N, C); without an attention_mask if each stands alone."""
    vectors = []
    for start in range(0, len(lines), batch):
        part = lines[start : start + batch]
        ids = torch.nn.utils.rnn.pad_sequence(list(part), batch_first=True)
        valid = torch.tensor([[n < len(line) for n in range(ids.shape[1])] for line in part])
        mask = {} if batch == 1 else {"attention_mask": valid.long()}
        with torch.no_grad():
            hidden = model(ids, **mask).last_hidden_state
        vectors.append((hidden * valid[..., None]).sum(1) / valid.sum(1, keepdim=True))
    return torch.cat(vectors)


def judge(alone: Tensor, beside: Tensor) -> dict[str, float]:
    """``alone`` and ``beside`` (N, C): the same lines, embedded in two ways."""
    apart = (alone - beside).norm(dim=1) / alone.norm(dim=1)
    nearest = torch.cdist(beside, alone).argmin(1)
    found = (nearest == torch.arange(len(alone))).double().mean()
    return {"apart": round(float(apart.median()), 6), "finds_itself": round(float(found), 4)}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    results = data_path("gazette.toml").parent / "results"
    parser.add_argument("--out", type=Path, default=results / "opening.csv")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--lines", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--smoke", action="store_true", help="one tiny model, two steps")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    sizes = dict(n_embd=16, n_layer=1, n_head=2) if options.smoke else {}
    if options.smoke:
        options.steps, options.lines, options.seeds = 2, 40, [0]
    config = GPTConfig(load_tokenizer().n_vocab, n_positions=WINDOW, **sizes)
    settings = dict(steps=options.steps, lines=options.lines, batch=BATCH, config=asdict(config))
    about = " ".join(__doc__.split("\n\n")[-1].split())
    facts = {**origin("opening", argv), "about": about}
    key = ("seed", "backend", "conversion")
    table = Table(options.out, key, ("apart", "finds_itself"), settings, facts)
    trained, held_out = Stream.of(tiny_shakespeare(), WINDOW).split(0.1)
    lines = lines_of(held_out, options.lines)
    table.note(lengths=[min(map(len, lines)), max(map(len, lines))], found=len(lines))
    for seed in options.seeds:
        rows = [(b, name) for b in ("eager", "sdpa") for name in CONVERSIONS]
        if all(table.has(seed=seed, backend=b, conversion=name) for b, name in rows):
            continue
        model = GPT.init(config, torch.Generator().manual_seed(seed))
        how = dict(batch=16, row=WINDOW, learning_rate=1e-2, seed=seed, progress=False)
        fit(model, NextToken(), trained, options.steps, **how)
        for backend, name in rows:
            gpt2 = to_gpt2(model).transformer
            gpt2.set_attn_implementation(backend)
            CONVERSIONS[name](gpt2)
            found = judge(embed(gpt2, lines, 1), embed(gpt2, lines, BATCH))
            table.add(seed=seed, backend=backend, conversion=name, **found)


if __name__ == "__main__":
    main()
