"""``python -m mylib write``: write pages with a model, in any order."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..files import data_path, read_safetensors
from ..gazette import EDITIONS, Gazette
from ..model import FORMAT, GPT
from ..sampling import (
    ORDERS,
    REVISERS,
    Certain,
    Passes,
    Trace,
    generate_diffusion,
    write,
)
from ..tokenizer import BOS, EOS, MASK, PAD, decode, load_tokenizer, pretokens, words

BLANK = re.compile(r"_{2,}|\[MASK\]")
FILLS_HOLES = ("Denoising", "AbsorbingDiffusion", "MaskedLM")  # objectives whose models can
REVISING = {name.replace(" ", "-"): reviser for name, reviser in REVISERS.items()}
# What the note's script sets (source note 3, step 3); other orders: every draw as the model says.
NOTE = {"steps": 25, "temperature": 0.8, "top_k": 200, "seed": 1337}
PLAIN = {"steps": None, "temperature": 1.0, "top_k": None, "seed": 0}


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write pages with a model that fills holes. Blanks (___) in the prompt are filled, one "
        "word each, and what follows the prompt is written too; words that are given stay. "
        "Example: python -m mylib write 'The ___ mist came to ___' --steps 16 --show-steps"
    )
    parser.add_argument("prompt", nargs="?", default="", help="text with blanks: ___ or [MASK]")
    parser.add_argument("--end", action="store_true", help="the page ends where the prompt ends")
    parser.add_argument(
        "--model",
        default="diffusion",
        help="a shipped checkpoint, a file, or oracle (default: %(default)s)",
    )
    parser.add_argument(
        "--order",
        choices=("note", *ORDERS),
        default="confidence",
        help="note: the third source note's sampler, with its script's settings",
    )
    parser.add_argument("--words", type=int, help="tokens of the page, with its ends (default: 34)")
    parser.add_argument("--samples", type=int, default=1, help="pages (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="passes (default: one word a pass; note: 25)")
    parser.add_argument(
        "--certain", type=float, help="instead: all words as likely as this, a pass"
    )
    parser.add_argument("--temperature", type=float, help="default: 1; note: 0.8")
    parser.add_argument("--top-k", type=int, help="default: all; note: 200")
    parser.add_argument("--top-p", type=float, help="nucleus (default: all)")
    parser.add_argument("--revise", choices=REVISING, default="none", help="hide words again")
    parser.add_argument("--seed", type=int, help="default: 0; note: 1337")
    parser.add_argument("--show-steps", action="store_true", help="print the page after every pass")


def run(options: argparse.Namespace) -> int:
    for name, value in (NOTE if options.order == "note" else PLAIN).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.samples < 1:
        raise ValueError(f"--samples is at least 1, got {options.samples}")
    model, gazette = load(options.model)
    length = gazette.length if options.words is None else options.words
    canvas = blank_page(options.prompt, length, options.end)
    trace = written(options, model, canvas.expand(options.samples, -1))
    if why := impossible(options.prompt, canvas, gazette):
        print(f"python -m mylib write: {why}", file=sys.stderr)
    for number, row in enumerate(trace.ids):
        if options.samples > 1:
            print(f"-- page {number + 1}")
        if options.show_steps:
            for step, frame in enumerate((canvas, *(f[number] for f in trace.frames))):
                print(f"{step:3d}  {shown(frame)}")
        print(decode(row.tolist()))
    valid = int(gazette.is_valid(trace.ids).sum())
    print(f"{trace.passes} passes; pages that the grammar can write: {valid} of {options.samples}")
    return 0


def written(options: argparse.Namespace, model: GPT | Callable, canvas: Tensor) -> Trace:
    """What the options ask for; `ValueError` where they contradict each other."""
    how = dict(
        temperature=options.temperature,
        top_k=options.top_k,
        generator=torch.Generator().manual_seed(options.seed),
    )
    if options.order == "note":
        if options.certain is not None or options.top_p is not None or options.revise != "none":
            raise ValueError("the note's sampler has no --certain, --top-p and --revise")
        return generate_diffusion(model, canvas, options.steps, **how)
    if options.certain is not None and options.steps is not None:
        raise ValueError("--steps fixes the number of passes, --certain lets it vary: give one")
    budget = 1 if options.certain is None else Certain(options.certain)
    return write(
        model,
        canvas,
        options.order,
        Passes(options.steps) if options.steps is not None else budget,
        revise=REVISING[options.revise],
        top_p=options.top_p,
        **how,
    )


def load(name: str) -> tuple[GPT | Callable, Gazette]:
    """A model that fills holes, and the edition it writes. `ValueError` for one that does not."""
    if name == "oracle":
        gazette = Gazette.load("sunday")
        return gazette.denoiser, gazette
    path = Path(name)
    if not path.exists() and path.name == name and "." not in name:
        path = data_path(f"checkpoints/{name}.safetensors")
    _, header = read_safetensors(path, FORMAT)
    objective = header.get("objective", "")
    if objective and not any(each in objective for each in FILLS_HOLES):
        raise ValueError(
            f"{name} has learnt {objective}: it continues texts and cannot fill holes; "
            "denoiser, diffusion, mlm and mixed can"
        )
    edition = header.get("edition", "sunday")
    if edition not in EDITIONS:  # a file must not say which other file is read
        raise ValueError(f"{name} writes edition {edition!r}; known: {', '.join(EDITIONS)}")
    return GPT.load(path), Gazette.load(edition)


def blank_page(prompt: str, length: int, end: bool) -> Tensor:
    """The canvas (length,): <bos>, the prompt, [MASK] for every blank and for all that follows.

    With ``end`` the page ends after the prompt. A blank is one word. Raises `ValueError` where the
    prompt does not fit.
    """
    ids, encoding = [BOS], load_tokenizer()
    for number, piece in enumerate(between_blanks(prompt)):
        ids += [MASK] * (number > 0) + encoding.encode_ordinary(piece)
    if not prompt.strip():
        ids = [BOS]
    ids += [EOS] * end
    if len(ids) > length:
        raise ValueError(f"the prompt has {len(ids)} tokens with its ends, the page {length}")
    rest = [PAD if end else MASK] * (length - len(ids))
    return torch.tensor(ids + rest)


def between_blanks(prompt: str) -> list[str]:
    """The given words, cut at the blanks; each word with one space in front, as in a text."""
    return [piece.rstrip() for piece in BLANK.split(" " + " ".join(prompt.split()))]


def impossible(prompt: str, canvas: Tensor, gazette: Gazette) -> str:
    """Why no page of the edition fills ``canvas`` (length,), in one line; "" if one does."""
    paper = f"the {gazette.grammar.edition} edition"
    hidden = torch.full((1, gazette.length), MASK)
    prints = gazette.posterior(hidden, visible=hidden != MASK).log_probs[0].amax(0) > -torch.inf
    given = [word for piece in between_blanks(prompt) for word in pretokens(piece)]
    tokens = {word.strip(): load_tokenizer().encode_ordinary(word) for word in given}
    unknown = [word for word, ids in tokens.items() if len(ids) > 1 or not prints[ids[0]]]
    if unknown:
        return (
            f"{paper} has no word {', '.join(map(repr, unknown))}, and so no page for this prompt"
        )
    rest = (0, max(gazette.length - len(canvas), 0))  # beyond a shorter page there are only pads
    page, holes = pad(canvas, rest, value=PAD), pad(canvas == MASK, rest)
    dead = bool(gazette.posterior(page[None], visible=~holes[None]).dead)
    return f"{paper} has these words, and no page that fits this prompt" if dead else ""


def shown(ids: Tensor) -> str:
    """A page as it stands, holes as ____; its end and what follows are left out."""
    names = words(ids)
    return " ".join(
        "____" if token == MASK else name
        for token, name in zip(ids.tolist(), names, strict=True)
        if token not in (BOS, EOS, PAD)
    )
