"""Training: a step at the same shapes, and documents of unequal length."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...gazette import Gazette
from ...model import GPT
from ...objectives import NextToken, Rows
from ...tokenizer import PAD
from .peers import loss_of, same_loss, same_size
from .rounds import WORDS, backward, contestants, interleaved, quartiles, summary, words


def training_step(shapes: list[dict], repeats: int, warmup: int) -> list[dict]:
    """Forward, cross-entropy and backward, without and with AdamW, at every shape."""
    found = []
    for shape in shapes:
        sizes = dict(shape)
        rows, tokens = sizes.pop("rows"), sizes.pop("tokens")
        ids = words(sizes, rows, tokens)
        for with_adamw in (False, True):
            models = contestants(sizes)
            loss = same_loss({n: float(loss_of(m, ids).detach()) for n, m in models.items()})
            steps = {name: step_of(model, ids, with_adamw) for name, model in models.items()}
            run = {
                "step": "forward, loss, backward" + ", AdamW" * with_adamw,
                **dict(shape=shape, loss=loss, flops=flops(shape)),
                "parameters": same_size({name: count(model) for name, model in models.items()}),
                "results": summary(interleaved(steps, repeats, warmup)),
            }
            found.append(run)
    return found


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def step_of(model: nn.Module, ids: Tensor, with_adamw: bool) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)

    def step() -> None:
        loss_of(model, ids).backward()
        if with_adamw:
            optimizer.step()
        optimizer.zero_grad()

    return step


def flops(shape: dict) -> int:
    """Multiplications and additions in the matrix products of forward and backward.

    A matrix of m × n weights costs 2mn a token forward and twice that backward; a block has 12 C²
    weights, the head V C. Attention adds 2 · 2 · C a token for each token it looks at, and under
    the causal mask these are (T + 1) / 2 on average: what a kernel computes beyond is not counted.

    >>> flops(dict(vocab_size=10, n_embd=2, n_layer=1, n_head=1, n_positions=3, rows=1, tokens=3))
    1368
    """
    c, tokens = shape["n_embd"], shape["tokens"]
    weights = shape["n_layer"] * 12 * c * c + shape["vocab_size"] * c
    attention = shape["n_layer"] * 4 * c * (tokens + 1) / 2
    return int(3 * shape["rows"] * tokens * (2 * weights + attention))


def useful_tokens(
    sizes: dict, sources: dict[str, dict], repeats: int, warmup: int
) -> dict[str, dict]:
    """Tokens of documents a second through layout, forward, loss and backward.

    Every round has new documents, the same for all. Peers pad to the longest document and ignore
    the padding in the loss; ours packs rows of ``row`` tokens, or pads (``ours, padded``).
    """
    found = {}
    for source, how in sources.items():
        batches = documents_of(sizes, repeats + warmup, **how)
        models = contestants({**sizes, "n_positions": how["row"]})
        ways = {
            name: objective_loss(model, how["row"])
            if isinstance(model, GPT)
            else padded_loss(model)
            for name, model in models.items()
        }
        ways["ours, padded"] = objective_loss(models["ours"], None)
        same_loss({name: float(way(batches[0]).detach()) for name, way in ways.items()}, 1e-4)
        models["ours, padded"] = models["ours"]
        steps = {name: in_turn(models[name], way, batches) for name, way in ways.items()}
        seconds = interleaved(steps, repeats, warmup)
        found[source] = rates(seconds, batches[warmup:])
    return found


def rates(seconds: dict[str, list[float]], batches: list[list[Tensor]]) -> dict:
    """The summary with tokens a second, and which share of a padded batch is no padding."""
    useful = [sum(map(len, batch)) for batch in batches]
    padded = [len(batch) * max(map(len, batch)) for batch in batches]
    results = summary(seconds)
    for name, each in seconds.items():
        speed = [n / s for n, s in zip(useful, each, strict=True)]
        results[name]["tokens_per_second"] = quartiles(speed, 0)
    share = round(sum(useful) / sum(padded), 3)
    return {"useful_share_when_padded": share, "results": results}


def documents_of(
    sizes: dict, batches: int, documents: int, row: int, shortest: int | None = None
) -> list[list[Tensor]]:
    """Batches of documents: of the small edition, or, given the ``shortest``, of random words with
    log-uniform lengths up to ``row``."""
    chance = torch.Generator().manual_seed(0)
    if shortest is None:
        gazette = Gazette.load()
        return [gazette.sample(documents, chance) for _ in range(batches)]
    found = []
    for _ in range(batches):
        share = torch.rand(documents, generator=chance)
        lengths = (shortest * (row / shortest) ** share).round().long().tolist()
        vocabulary = sizes["vocab_size"]
        found.append([torch.randint(WORDS, vocabulary, (n,), generator=chance) for n in lengths])
    return found


def objective_loss(model: GPT, row: int | None) -> Callable[[list[Tensor]], Tensor]:
    """Our loss of documents: packed in rows of ``row``, or padded; logits where asked."""
    objective = NextToken()

    def loss(documents: list[Tensor]) -> Tensor:
        rows = Rows.padded(documents) if row is None else Rows.packed(documents, row)
        (batch,) = objective.make(rows, torch.Generator())
        return objective.loss(model.answers(batch), batch) / batch.denominator

    return loss


def padded_loss(model: nn.Module) -> Callable[[list[Tensor]], Tensor]:
    """The usual loss of documents: padded on the right, logits everywhere, padding ignored.

    Under a causal mask no real token sees padding on its right, so no attention mask is passed:
    the same loss, and faster.
    """

    def loss(documents: list[Tensor]) -> Tensor:
        ids = nn.utils.rnn.pad_sequence(documents, batch_first=True, padding_value=PAD)
        logits = model(ids[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=PAD)

    return loss


def in_turn(
    model: nn.Module, loss: Callable[[list[Tensor]], Tensor], batches: list[list[Tensor]]
) -> Callable[[], None]:
    """A step on the next batch, and the first one again after the last."""
    turn = itertools.cycle(batches)
    return backward(model, lambda: loss(next(turn)))
