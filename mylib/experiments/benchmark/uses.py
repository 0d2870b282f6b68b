"""A large vocabulary, writing, and the influence probe."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...model import GPT, GPTConfig
from ...objectives import AbsorbingDiffusion, Batch, MaskedLM, Objective, Rows
from ...probes import influence
from ...sampling.left import generate
from ...tokenizer import MASK
from .peers import FASTEST_OF_EACH, load, same_loss
from .rounds import WORDS, backward, contestants, fresh, interleaved, summary, words


def large_vocabulary(
    sizes: dict, rows: int, tokens: int, repeats: int, warmup: int
) -> dict[str, dict]:
    """A step of masked words and of diffusion: logits only where asked, against all logits."""
    found = {}
    for task in ("masked words", "diffusion"):
        ways = {
            way: filling(way, task, sizes, rows, tokens)
            for way in ("ours", "all logits", "ours again")
        }
        same_loss({way: float(loss().detach()) for way, (_, loss) in ways.items()})
        if task == "masked words":
            ways["transformers"] = filling("transformers", task, sizes, rows, tokens)
        steps = {way: backward(model, loss) for way, (model, loss) in ways.items()}
        asked = float(filling_batch(task, sizes, rows, tokens)[1].asked.float().mean())
        results = summary(interleaved(steps, repeats, warmup))
        found[task] = {"asked_share": round(asked, 3), "results": results}
    return found


def filling(
    way: str, task: str, sizes: dict, rows: int, tokens: int
) -> tuple[nn.Module, Callable[[], Tensor]]:
    """A model and its loss of a batch: by way of the asked logits ("ours"), of all of them, or as
    transformers' BertForMaskedLM of the same sizes, another network, has it (of all, too)."""
    objective, batch = filling_batch(task, sizes, rows, tokens)
    if way == "transformers":
        bert = bert_like(sizes)
        labels = torch.full_like(batch.inputs, -100).masked_scatter(batch.asked, batch.targets)
        return bert, lambda: bert(batch.inputs, labels=labels).loss
    model = fresh(sizes)
    if way == "all logits":
        where = batch.inputs, batch.mask, batch.positions
        return model, lambda: objective.loss(model(*where), batch)
    return model, lambda: objective.loss(model.answers(batch), batch)


def filling_batch(task: str, sizes: dict, rows: int, tokens: int) -> tuple[Objective, Batch]:
    """15 % of the words masked, or the share that diffusion draws, about half."""
    objective: Objective = AbsorbingDiffusion(mask_token=MASK)
    if task == "masked words":
        replacements = range(WORDS, sizes["vocab_size"])
        objective = MaskedLM(rate=0.15, replacements=replacements, mask_token=MASK)
    texts = list(words(sizes, rows, tokens))
    (batch,) = objective.make(Rows.padded(texts), torch.Generator().manual_seed(0))
    return objective, batch


def bert_like(sizes: dict) -> nn.Module:
    from transformers import BertConfig, BertForMaskedLM

    config = GPTConfig(**sizes)
    bert = BertConfig(
        **dict(vocab_size=config.vocab_size, max_position_embeddings=config.n_positions),
        **dict(hidden_size=config.n_embd, intermediate_size=4 * config.n_embd),
        **dict(num_hidden_layers=config.n_layer, num_attention_heads=config.n_head),
        **dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
    )
    return BertForMaskedLM(bert).train()


def generation(
    sizes: dict, prompt: int, lengths: list[int], repeats: int, warmup: int
) -> dict[str, dict]:
    """Writing the likeliest token again and again, one text, with and without a cache."""
    ours = fresh(sizes).eval()
    peers = {name: peer.eval() for name, peer in load(ours, FASTEST_OF_EACH).items()}
    ids, found = words(sizes, 1, prompt), {}
    for length in lengths:
        ways = {name: own(ours, ids, length, True) for name in ("ours", "ours again")}
        ways["ours, no cache"] = own(ours, ids, length, False)
        for name, peer in peers.items():
            ways[f"{name}, no cache"] = theirs(peer, ids, length, False)
            if peer.caches:
                ways[name] = theirs(peer, ids, length, True)
        for name, way in ways.items():
            if way().shape != (1, prompt + length):
                raise ValueError(f"{name} did not write {length} tokens")
        found[str(length)] = summary(interleaved(ways, repeats, warmup))
    return {"results": found, "doubling": doubling(found)}


def own(model: GPT, ids: Tensor, length: int, cached: bool) -> Callable[[], Tensor]:
    how = dict(temperature=0.0, stop=None, forbid=(), use_cache=cached)
    return lambda: generate(model, ids, length, **how).ids


def theirs(peer: nn.Module, ids: Tensor, length: int, cached: bool) -> Callable[[], Tensor]:
    return lambda: peer.write(ids, length, cached)


def doubling(found: dict[str, dict]) -> dict[str, list[float]]:
    """Seconds at each length over those at the length before: 2 is linear where lengths double."""
    medians = {
        name: [found[length][name]["milliseconds"]["median"] for length in found]
        for name in next(iter(found.values()))
    }
    return {
        name: [round(b / a, 3) for a, b in itertools.pairwise(each)]
        for name, each in medians.items()
    }


def probe(sizes: dict, tokens: int, repeats: int, warmup: int) -> dict[str, dict]:
    """`mylib.probes.influence` of every token on every output of a causal model."""
    models = contestants(sizes, ["transformers"])
    ids = words(sizes, 1, tokens)[0]
    expected = torch.ones(tokens, tokens, dtype=torch.bool).tril()
    ways = {name: lambda m=model: influence(m, ids) for name, model in models.items()}
    ways["ours, by substitution"] = lambda: influence(models["ours"], ids, probe="substitution")
    for name, way in ways.items():
        if not torch.equal(way(), expected):
            raise ValueError(f"{name} is not measured as causal")
    return {"results": summary(interleaved(ways, repeats, warmup))}
