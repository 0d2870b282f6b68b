"""The objective and the model that ``python -m mylib train`` is told to use."""

from __future__ import annotations

import dataclasses
import inspect
import math
import os
from typing import Any

import tiktoken
import torch

from .. import masks, objectives, tokenizer
from ..convert import load_gpt2, with_vocabulary
from ..files import read_safetensors
from ..leaks import certificate
from ..model import FORMAT, GPT, GPTConfig
from ..objectives import Objective
from ..tokenizer import FIRST_WORD
from ..vocabulary import fingerprint
from .train_data import Material, is_gazette

NAMED = {
    "next": objectives.NextToken,
    "previous": objectives.PreviousToken,
    "both": objectives.ForwardBackward,
    "masked": objectives.MaskedLM,
    "next-masked": objectives.NextMasked,
    "prefix": objectives.PrefixLM,
    "denoising": objectives.Denoising,
    "diffusion": objectives.AbsorbingDiffusion,
}
MASKS = {n: getattr(masks, n) for n in ("causal", "anticausal", "bidirectional")}
OURS = {"mask_token", "special", "replacements"}  # they follow from the tokens
CROP = 48  # tokens; the check takes the third power of them


def objective_of(settings: dict[str, Any], encoding: tiktoken.Encoding) -> Objective:
    """The objective with its settings; wrong words are drawn from the encoding's own.

    Raises `ValueError` for settings that it does not have, with those that it has.
    """
    kind, given = NAMED[settings["objective"]], dict(settings["set"])
    takes = inspect.signature(kind).parameters
    if unknown := sorted(given.keys() - takes.keys() | given.keys() & OURS):
        known = ", ".join(sorted(takes.keys() - OURS))
        raise ValueError(f"{kind.__name__} has no setting {unknown[0]!r}; known: {known}")
    if "mask" in given:
        if given["mask"] not in list(MASKS):
            raise ValueError(f"mask is one of {', '.join(MASKS)}, got {given['mask']!r:.99}")
        given["mask"] = MASKS[given["mask"]]
    if "replacements" in takes and not is_gazette(encoding):
        given["replacements"] = range(FIRST_WORD, encoding.n_vocab)
    try:
        return kind(**given)
    except (TypeError, OverflowError) as error:
        said = f"{settings['set']!r:.200}"
        raise TypeError(f"settings of another type for {kind.__name__}: {said}: {error}") from error


def refuse_leaks(objective: Objective, material: Material, settings: dict[str, Any], layers: int):
    """Raise `ValueError` if an answer of a short document can reach its own question."""
    document = material.judged[0]
    if len(document) > CROP and "prefix" not in settings["set"]:
        document = torch.cat([document[: CROP - 1], document[-1:]])
    found = certificate(objective, objective.rows([document], len(document)), layers)
    if not found.sound and not settings["allow-leaks"]:
        raise ValueError(f"{found}; --allow-leaks trains it all the same")


def model_of(settings: dict[str, Any], encoding: tiktoken.Encoding) -> GPT:
    """A new model, one of ours, or one with GPT-2's weights, in the tokens of the encoding.

    Raises `ValueError` for a model in other tokens or with fewer positions than the window.
    """
    if settings["init"] is not None and settings["gpt2"] is not None:
        raise ValueError("--init and --gpt2 both give the weights; take one of them")
    if settings["init"] is not None:
        model = _ours(settings["init"], encoding)
    elif settings["gpt2"] is not None:
        model = _gpt2(settings["gpt2"], encoding)
    else:
        sizes = dict(n_embd=settings["width"], n_layer=settings["layers"])
        sizes |= dict(n_head=settings["heads"], dropout=settings["dropout"])
        config = GPTConfig(encoding.n_vocab, n_positions=settings["window"], **sizes)
        if 4 * config.parameters > memory():
            raise ValueError(
                f"width {config.n_embd}, layers {config.n_layer}, window {config.n_positions}: "
                f"{config.parameters} parameters are more than the memory of this machine holds"
            )
        return GPT.init(config, torch.Generator().manual_seed(settings["seed"]))
    if model.config.n_positions < settings["window"]:
        raise ValueError(
            f"the model has {model.config.n_positions} positions, --window is {settings['window']}"
        )
    return _with_dropout(model, settings["dropout"])


def memory() -> float:
    """Bytes of this machine's memory; infinite where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return math.inf


def _ours(path, encoding: tiktoken.Encoding) -> GPT:
    model, header = GPT.load(path), read_safetensors(path, FORMAT)[1]
    # Models that do not say were trained on the Gazette's tokens.
    said = header.get("vocabulary", fingerprint(tokenizer.load_tokenizer()))
    if said != fingerprint(encoding) or model.config.vocab_size != encoding.n_vocab:
        raise ValueError(
            f"{path} was trained on other tokens ({model.config.vocab_size} of them, here are "
            f"{encoding.n_vocab}); --tokenizer takes the file that was saved beside it"
        )
    return model


def _gpt2(name: str, encoding: tiktoken.Encoding) -> GPT:
    model = load_gpt2(name)
    if is_gazette(encoding) and model.config.vocab_size == encoding.n_vocab:
        return model  # one of ours that went through transformers
    return with_vocabulary(model, tokenizer.gpt2_tokenizer(), encoding)


def _with_dropout(model: GPT, dropout: float) -> GPT:
    changed = GPT(dataclasses.replace(model.config, dropout=dropout))
    changed.load_state_dict(model.state_dict())  # in float32, whatever the file has
    return changed.eval()
