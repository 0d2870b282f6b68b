"""The causal GPT on Tiny Shakespeare: its loss on held-out text while it trains.

    python -m mylib.experiments.shakespeare          (about 5 minutes a seed on one core)

The text is cut into the Gazette's tokens; the last tenth is held out; a document is a window of 128
tokens, of which the 127 last are predicted. Characters are those of the predicted tokens, spaces
and line ends included (the text is ASCII: one byte, one character), so that
bits per character = nats of all predicted tokens / (ln 2 * their characters).
There is no oracle here: nobody knows the floor. Reference: a unigram model of the training text.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from ..datasets import Stream, tiny_shakespeare
from ..files import data_path
from ..model import GPT, GPTConfig
from ..objectives import NextToken, Rows
from ..tokenizer import decode, load_tokenizer, words
from ..train import evaluate, fit
from .results import Table, log_frequencies, origin

WINDOW = 128
STRIP = 24  # tokens of the surprise strip


def even(windows: list[Tensor], count: int) -> list[Tensor]:
    """``count`` windows, spread evenly over the text."""
    return [windows[i * len(windows) // count] for i in range(min(count, len(windows)))]


def characters(windows: list[Tensor]) -> int:
    """Characters of the predicted tokens: all but the first of each window."""
    sizes = torch.tensor([len(bytes_of(i)) for i in range(load_tokenizer().n_vocab)])
    return sum(int(sizes[window[1:]].sum()) for window in windows)


def bytes_of(token: int) -> bytes:
    return load_tokenizer().decode_single_token_bytes(token)


def judge(nats: Tensor, windows: list[Tensor]) -> dict[str, float]:
    """Nats per predicted token and bits per character, from the nats of each window."""
    total = float(nats.double().sum())
    predicted = sum(len(window) - 1 for window in windows)
    return {
        "nats_per_token": round(total / predicted, 4),
        "bits_per_character": round(total / math.log(2) / characters(windows), 4),
    }


def unigram(trained: Stream, windows: list[Tensor]) -> dict[str, float]:
    """The same measures for token frequencies of the training text (one added to each count)."""
    log_p = log_frequencies(trained.ids, load_tokenizer().n_vocab)
    return judge(torch.stack([-log_p[window[1:]].sum() for window in windows]), windows)


def strip(model: GPT, windows: list[Tensor]) -> dict:
    """Surprise of 24 tokens in the middle of a line: the first such place of the held-out text.

    The model reads the window up to each of them. They begin with a word and hold no line end,
    nor does the token before them.
    """
    for number, window in enumerate(windows):
        pieces = [bytes_of(i) for i in window.tolist()]
        for start in range(WINDOW // 4, WINDOW - STRIP):
            place = slice(start, start + STRIP)
            new_word = pieces[start].startswith(b" ") and len(pieces[start]) > 1
            if new_word and b"\n" not in b"".join(pieces[start - 1 : place.stop]):
                (batch,) = NextToken().make(Rows.padded([window]), torch.Generator())
                with torch.no_grad():
                    nll = NextToken().nll(model(batch.inputs), batch)
                return {
                    "window": number,
                    "start": start,
                    "ids": window[place].tolist(),
                    "words": words(window[place].tolist()),
                    "pieces": [piece.decode() for piece in pieces[place]],
                    "surprise_nats": [round(x, 4) for x in nll[start - 1 :][:STRIP].tolist()],
                    "text_before": decode(window[:start].tolist()),
                    "text": decode(window[place].tolist()),
                }
    raise ValueError(f"no {STRIP} tokens of one line in the held-out windows")


def run(table: Table, options: argparse.Namespace, config: GPTConfig, seed: int) -> GPT:
    """Train one seed, judging the model on its way."""
    trained, held_out = Stream.of(tiny_shakespeare(), WINDOW).split(0.1)
    texts = {"held-out": held_out.windows(), "training": even(trained.windows(), options.judged)}
    start = time.perf_counter()

    def look(step: int, model: GPT) -> None:
        if step not in (0, options.steps) and step % options.every:
            return
        for text, windows in texts.items():
            part = windows if step == options.steps else even(windows, options.judged)
            found = judge(evaluate(model, NextToken(), part), part)
            seconds = round(time.perf_counter() - start, 1)
            table.add(seed=seed, step=step, text=text, windows=len(part), **found, seconds=seconds)

    model = GPT.init(config, torch.Generator().manual_seed(seed))
    look(0, model)
    settings = dict(batch=options.batch, row=WINDOW, learning_rate=options.learning_rate)
    settings |= dict(seed=seed, progress=False, on_step=look)
    fit(model, NextToken(), trained, options.steps, **settings)
    return model


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    results = data_path("gazette.toml").parent / "results"
    parser.add_argument("--out", type=Path, default=results / "shakespeare.csv")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=16, help="windows a step")
    parser.add_argument("--learning-rate", type=float, default=1e-2)
    parser.add_argument("--every", type=int, default=100, help="steps between two looks")
    parser.add_argument("--judged", type=int, default=128, help="windows a look judges; last: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--smoke", action="store_true", help="one tiny model, two steps")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    sizes = dict(n_embd=16, n_layer=1, n_head=2) if options.smoke else {}
    if options.smoke:
        options.steps, options.every, options.judged, options.seeds = 2, 1, 4, [0]
    config = GPTConfig(load_tokenizer().n_vocab, n_positions=WINDOW, **sizes)
    names = ("steps", "batch", "learning_rate", "every", "judged")
    settings = {name: getattr(options, name) for name in names}
    settings |= {"optimiser": "Muon and AdamW, cosine decay", "config": asdict(config)}
    values = ("windows", "nats_per_token", "bits_per_character", "seconds")
    facts = {**origin("shakespeare", argv), "about": " ".join(__doc__.split("\n\n")[-1].split())}
    table = Table(options.out, ("seed", "step", "text"), values, settings, facts)
    trained, held_out = Stream.of(tiny_shakespeare(), WINDOW).split(0.1)
    windows = held_out.windows()
    counts = {"training_tokens": len(trained.ids), "held_out_tokens": len(held_out.ids)}
    predicted = {"predicted": len(windows) * (WINDOW - 1), "characters": characters(windows)}
    table.note(**counts, held_out_windows=predicted, unigram=unigram(trained, windows))
    for seed in options.seeds:
        if not table.has(seed=seed, step=options.steps, text="training"):
            model = run(table, options, config, seed)
            if seed == options.seeds[0]:
                table.note(strip={"seed": seed, **strip(model, windows)})


if __name__ == "__main__":
    main()
