"""Shakespeare restored from holes: one network, read two ways.

    python -m mylib.experiments.torn --ranks     (the tokens: data/shakespeare.tiktoken)
    python -m mylib.experiments.torn             (about an hour and a half on one core)

Byte-pair tokens learnt on the first nine tenths of Tiny Shakespeare; one network of 4 layers and 96
channels, trained on windows of those nine tenths with two objectives at once, `NextToken` and
`AbsorbingDiffusion`, and shipped as data/checkpoints/bard.safetensors (float16). Then tokens of the
held-out tenth are hidden, whole words or not, a ``share`` of each window, and each is guessed three
ways: by ``both``, which sees all that are not hidden, by ``left``, which sees all before it, the
hidden ones too (more than a torn page would give it), and as the most ``frequent`` one. ``right``:
share of hidden tokens named at first guess; ``nats``: -log p of one; intervals over windows.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..datasets import Stream, tiny_shakespeare
from ..files import data_path
from ..masks import bidirectional, causal
from ..metrics import bootstrap_over
from ..model import GPT, GPTConfig
from ..objectives import AbsorbingDiffusion, Mixed, NextToken
from ..tokenizer import FIRST_WORD, MASK, PATTERN, load_tokenizer
from ..train import fit
from ..vocabulary import fingerprint, of_tokens, save_ranks
from .ranks import learned_merges
from .results import Table, log_frequencies, origin

WINDOW = 128
HELD_OUT = 0.1
SHARES = (0.04, 0.15, 0.3, 0.5, 0.8)
COLUMNS = ("windows", "hidden", "right", "right_low", "right_high", "nats", "nats_low", "nats_high")
OBJECTIVE = Mixed(NextToken(), AbsorbingDiffusion(average="token"))


def write_ranks(count: int) -> None:
    """Learn ``count`` tokens (256 bytes and merges) on the text that is trained on."""
    text = tiny_shakespeare()
    single = [bytes([byte]) for byte in range(256)]
    merges = learned_merges(text[: int(len(text) * (1 - HELD_OUT))], count - len(single))
    of_tokens([*single, *merges], PATTERN)  # a vocabulary with a token twice is refused here
    save_ranks(data_path("gazette.toml").with_name("shakespeare.tiktoken"), [*single, *merges])


def streams() -> tuple[Stream, Stream]:
    """The nine tenths and the tenth, in framed windows."""
    text, encoding = tiny_shakespeare(), load_tokenizer(data_path("shakespeare.tiktoken"))
    cut = int(len(text) * (1 - HELD_OUT))
    parts = (text[:cut], text[cut:])
    return tuple(Stream.of(part, WINDOW, encoding, framed=True) for part in parts)


def trained(options: argparse.Namespace, text: Stream) -> GPT:
    sizes = dict(n_embd=16, n_layer=1, n_head=2) if options.smoke else dict(n_embd=96)
    encoding = load_tokenizer(data_path("shakespeare.tiktoken"))
    config = GPTConfig(encoding.n_vocab, n_positions=WINDOW, **sizes)
    model = GPT.init(config, torch.Generator().manual_seed(options.seed)).to(options.device)
    unfinished = options.model.with_name(f".{options.model.stem}.run")
    settings = dict(batch=options.batch, row=WINDOW, seed=options.seed, checkpoint=unfinished)
    fit(model, OBJECTIVE, text, options.steps, **settings)
    notes = {"ranks": fingerprint(encoding), "objective": repr(OBJECTIVE)}
    notes["text"] = "Tiny Shakespeare, the first nine tenths"
    model.cpu().save(options.model, half=True, **notes)
    unfinished.unlink(missing_ok=True)
    return GPT.load(options.model)


def hidden(windows: Tensor, share: float) -> Tensor:
    """Which words of windows (N, T) are hidden: the same number in each, bool (N, T)."""
    chance = torch.rand(windows.shape, generator=torch.Generator().manual_seed(1))
    chance = chance.masked_fill(windows < FIRST_WORD, 2.0)
    count = round(share * (windows.shape[1] - 2))
    return chance.argsort(1).argsort(1) < count


@torch.no_grad()
def both(model: GPT, windows: Tensor, holes: Tensor) -> Tensor:
    """log p of each hidden word given all that are not hidden: (holes, V), row by row."""
    torn = windows.masked_fill(holes, MASK)
    found = [model(rows, bidirectional)[at] for rows, at in _parts(torn, holes)]
    return torch.cat(found).log_softmax(-1)


@torch.no_grad()
def left(model: GPT, windows: Tensor, holes: Tensor) -> Tensor:
    """log p of each hidden word given all words before it: (holes, V), row by row."""
    found = [model(rows[:, :-1], causal)[at[:, 1:]] for rows, at in _parts(windows, holes)]
    return torch.cat(found).log_softmax(-1)


def frequent(trained_on: Tensor, tokens: int) -> Callable[[GPT, Tensor, Tensor], Tensor]:
    """Token frequencies of the training text, one added to each count."""
    log_p = log_frequencies(trained_on, tokens).float()
    return lambda model, windows, holes: log_p.expand(int(holes.sum()), -1)


def _parts(windows: Tensor, holes: Tensor) -> zip:
    return zip(windows.split(32), holes.split(32), strict=True)


def scores(log_p: Tensor, windows: Tensor, holes: Tensor) -> dict:
    """The columns of one reader."""
    owner, answers = holes.nonzero()[:, 0], windows[holes]
    columns = (
        torch.ones(len(answers)),
        log_p.argmax(1) == answers,
        -log_p.gather(1, answers[:, None])[:, 0],
    )
    counts = torch.zeros(len(windows), 3, dtype=torch.float64)
    for number, column in enumerate(columns):
        counts[:, number].index_add_(0, owner, column.double())
    right = bootstrap_over(counts, lambda sums: sums[:, 1] / sums[:, 0])
    nats = bootstrap_over(counts, lambda sums: sums[:, 2] / sums[:, 0])
    values = (len(windows), len(answers), *(round(x, 4) for x in (*right, *nats)))
    return dict(zip(COLUMNS, values, strict=True))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    results = data_path("gazette.toml").parent / "results"
    shipped = data_path("checkpoints") / "bard.safetensors"
    parser.add_argument("--ranks", action="store_true", help="learn the tokens, nothing else")
    parser.add_argument("--tokens", type=int, default=2048, help="for --ranks")
    parser.add_argument("--out", type=Path, default=results / "torn.csv")
    parser.add_argument("--model", type=Path, default=shipped, help="trained if not there")
    parser.add_argument("--steps", type=int, default=3600)
    parser.add_argument("--batch", type=int, default=16, help="windows a step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="where to train")
    parser.add_argument("--smoke", action="store_true", help="a tiny model, two steps")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    if options.ranks:
        return write_ranks(options.tokens)
    if options.smoke:
        options.steps, options.batch = 2, 2
    text, held_out = streams()
    windows = torch.stack(held_out.windows()[: 4 if options.smoke else None])
    model = GPT.load(options.model) if options.model.exists() else trained(options, text)
    settings = {"steps": options.steps, "batch": options.batch, "seed": options.seed}
    facts = {**origin("torn", argv), "about": " ".join(__doc__.split("\n\n")[-1].split())}
    facts |= {"training_tokens": len(text.ids), "held_out_tokens": len(held_out.ids)}
    table = Table(options.out, ("share", "reader"), COLUMNS, settings, facts)
    readers = {
        "both": both,
        "left": left,
        "frequent": frequent(text.ids, model.config.vocab_size),
    }
    for share in SHARES:
        holes = hidden(windows, share)
        for name, reader in readers.items():
            if not table.has(share=share, reader=name):
                row = scores(reader(model, windows, holes), windows, holes)
                table.add(share=share, reader=name, **row)


if __name__ == "__main__":
    main()
