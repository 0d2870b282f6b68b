"""``python -m mylib train --text FILE --steps N``: next-token training on your own text."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ..datasets import Stream, read_text
from ..model import GPT, GPTConfig
from ..objectives import NextToken
from ..tokenizer import decode, load_tokenizer
from ..train import evaluate, fit

HELD_OUT = 0.1
JUDGED = 500  # held-out windows at most; they are spread evenly


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Train a causal model on windows of a text, a tenth of which is held out, and print its "
        "loss on that tenth before and after."
    )
    parser.add_argument("--text", type=Path, required=True, help="a file, or a folder of *.txt")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--window", type=int, default=128, help="tokens (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=4, help="default: %(default)s")
    parser.add_argument("--width", type=int, default=128, help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=16, help="windows (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("model.safetensors"), help="%(default)s")
    parser.add_argument("--checkpoint", type=Path, help="kept while training; a killed run goes on")


def run(options: argparse.Namespace) -> int:
    for path in (options.out, options.checkpoint):
        if path is not None and path.is_dir():
            raise ValueError(f"{path} is a folder; give the name of a file")
    trained, held_out = Stream.of(read_text(options.text), options.window).split(HELD_OUT)
    config = GPTConfig(
        vocab_size=load_tokenizer().n_vocab,
        n_positions=options.window,
        n_embd=options.width,
        n_layer=options.layers,
    )
    model = GPT.init(config, torch.Generator().manual_seed(options.seed))
    print(f"{len(trained.ids)} tokens to train on, {len(held_out.ids)} held out")
    _tell("before", model, held_out)
    fit(
        model,
        NextToken(),
        trained,
        options.steps,
        batch=options.batch,
        seed=options.seed,
        checkpoint=options.checkpoint,
    )
    _tell("after", model, held_out)
    model.save(options.out, objective=NextToken(), text=options.text.name)
    print(f"saved {options.out}")
    return 0


def _tell(when: str, model: GPT, text: Stream) -> None:
    nats = per_token(model, text)
    rate = len(text.ids) / len(decode(text.ids.tolist()))
    print(f"{when}: {nats:.3f} nats per token, {nats * rate:.3f} per character (held out)")


def per_token(model: GPT, text: Stream) -> float:
    """-log p of a token given those before it in its window, nats, mean over held-out windows."""
    windows = text.windows()
    windows = windows[:: -(-len(windows) // JUDGED)]
    return float(evaluate(model, NextToken(), windows).mean()) / (text.length - 1)
