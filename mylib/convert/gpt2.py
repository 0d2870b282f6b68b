"""Weights of a GPT-2 from `transformers` in our `GPT`, and back.

The two networks have the same parameters under the same names. transformers keeps its matrices as
``Conv1D``, (in, out); our ``nn.Linear`` wants (out, in), so they are transposed. ``attn.c_proj``
is square: untransposed it fits, too, and only `check_gpt2` would see.

Source: ``models/gpt2/modeling_gpt2.py`` and ``pytorch_utils.py`` (Conv1D) of transformers 5.23.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..masks import bidirectional, causal
from ..model import GPT, GPTConfig
from ..probes import evaluating

if TYPE_CHECKING:
    from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model

TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
TRIANGLES = (".attn.bias", ".attn.masked_bias")  # masks, which old versions stored with the rest
DROPOUTS = ("embd_pdrop", "attn_pdrop", "resid_pdrop")


def load_gpt2(source: GPT2LMHeadModel | GPT2Model | str | Path) -> GPT:
    """Our `GPT` with copies of the weights, in their dtype, on their device, in evaluation mode.

    ``source`` is a model, a folder that ``save_pretrained`` wrote, or (str only) a name on the
    Hugging Face hub. A model that was made bidirectional gives the same `GPT` as any other: call
    that with ``mask=bidirectional``.

    Raises `FileNotFoundError` for a name that is neither a folder nor to be had from the hub or
    its cache, and `ValueError` for a folder or model that holds no GPT-2, for options and weights
    that our GPT cannot express, and for logits that are not the original's (`check_gpt2`).
    """
    from transformers import GPT2LMHeadModel, GPT2Model

    theirs = _read(source) if isinstance(source, str | Path) else source
    if not isinstance(theirs, GPT2LMHeadModel | GPT2Model):
        kind = getattr(getattr(theirs, "config", None), "model_type", None)
        raise ValueError(f"no GPT-2, but {type(theirs).__name__} (model_type {kind!r})")
    weights = {name.removeprefix("transformer."): w for name, w in theirs.state_dict().items()}
    weights = {name: w for name, w in weights.items() if not name.endswith(TRIANGLES)}
    head = weights.pop("lm_head.weight", None)
    with torch.device("meta"):  # no memory, no random numbers: every weight is assigned
        ours = GPT(_our_config(theirs.config))
    try:
        ours.load_state_dict(_transposed(weights), assign=True)
    except RuntimeError as error:  # missing, unknown, or of another shape
        raise ValueError(f"these are not the weights of a plain GPT-2: {error}") from error
    if head is not None and not torch.equal(head, ours.wte.weight):
        raise ValueError("lm_head.weight is not wte.weight (tie_word_embeddings); ours are one")
    check_gpt2(ours, theirs)
    return ours.eval()


def to_gpt2(model: GPT) -> GPT2LMHeadModel:
    """The same network for transformers, with copies of the weights, in evaluation mode.

    It is our model under the mask `causal`; no other mask can be expressed there. Raises
    `ValueError` as `check_gpt2` does.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = dataclasses.asdict(model.config)
    dropouts = dict.fromkeys(DROPOUTS, sizes.pop("dropout"))
    end = 50256 if model.config.vocab_size > 50256 else None  # <|endoftext|> in GPT-2's vocabulary
    ends = {"bos_token_id": end, "eos_token_id": end}
    with torch.device("meta"):
        theirs = GPT2LMHeadModel(GPT2Config(**sizes, **dropouts, **ends))
    theirs.transformer.load_state_dict(_transposed(model.state_dict()), assign=True)
    theirs.tie_weights()
    check_gpt2(model, theirs)
    return theirs.eval()


def check_gpt2(ours: GPT, theirs: GPT2LMHeadModel | GPT2Model) -> float:
    """Largest difference between the logits of the two, for a few random ids.

    The mask is causal, or bidirectional where ``theirs.config.is_causal`` is False. Raises
    `ValueError` for a difference that is more than rounding: over 1e-4 in float32 and then over
    1e-9 in float64.
    """
    difference, dtype = _difference(ours, theirs), ours.wte.weight.dtype
    if difference <= {torch.float32: 1e-4, torch.float64: 1e-9}.get(dtype, 0.0):
        return difference
    if dtype != torch.float64:
        # Logits in the hundreds, or half precision, round as badly as that without any mistake.
        # Float64 tells the two apart; on the CPU, because not every device has it.
        ours, theirs = (copy.deepcopy(model).to("cpu", torch.float64) for model in (ours, theirs))
    exact = _difference(ours, theirs)
    if not exact <= 1e-9:  # this way round, NaN is refused
        raise ValueError(f"our logits differ from those of transformers by up to {exact:.2g}")
    return difference


def _difference(ours: GPT, theirs: GPT2LMHeadModel | GPT2Model) -> float:
    size, chance = (2, min(8, ours.config.n_positions)), torch.Generator().manual_seed(0)
    ids = torch.randint(ours.config.vocab_size, size, generator=chance)
    ids = ids.to(ours.wte.weight.device)
    mask = causal if getattr(theirs.config, "is_causal", True) else bidirectional
    with evaluating(ours), evaluating(theirs), torch.no_grad():
        out = theirs(ids, attention_mask=torch.ones_like(ids), use_cache=False, return_dict=True)
        # A GPT2Model has no head.
        logits = out.logits if "logits" in out else out.last_hidden_state @ theirs.wte.weight.T
        return float((ours(ids, mask) - logits).abs().max())


def _transposed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of the weights, with the matrices of Conv1D made those of Linear or the reverse."""
    turned = {name: w.T if name.endswith(TRANSPOSED) else w for name, w in weights.items()}
    return {n: w.clone(memory_format=torch.contiguous_format) for n, w in turned.items()}


def _our_config(theirs: GPT2Config) -> GPTConfig:
    """The sizes; options under which GPT-2 is another function are refused by name."""
    known = {
        "activation_function": ("gelu_new", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_fast"),
        "n_inner": (None, 4 * theirs.n_embd),
        "scale_attn_weights": (True,),
        "quantization_config": (None,),
    }
    extras = ("add_cross_attention", "reorder_and_upcast_attn", "scale_attn_by_inverse_layer_idx")
    known |= dict.fromkeys(extras, (False,))
    for name, values in known.items():
        if (value := getattr(theirs, name, values[0])) not in values:
            raise ValueError(f"our GPT cannot express {name}={value!r}, only one of {values}")
    dropouts = {name: getattr(theirs, name) for name in DROPOUTS}
    if len(set(dropouts.values())) > 1:
        raise ValueError(f"our GPT has one dropout, this model has several: {dropouts}")
    fields = {field.name for field in dataclasses.fields(GPTConfig)} - {"dropout"}
    return GPTConfig(**{n: getattr(theirs, n) for n in fields}, dropout=theirs.resid_pdrop)


def _check_sizes(theirs: GPT2Config, folder: Path) -> None:
    """Raise `ValueError` for sizes that the folder's files cannot fill, before they take memory."""
    sizes = _our_config(theirs)
    files = [f for f in folder.iterdir() if f.suffix in (".safetensors", ".bin") and f.is_file()]
    if files and sizes.parameters > (held := sum(file.stat().st_size for file in files)):
        raise ValueError(
            f"its config.json has the sizes of {sizes.parameters} parameters, and its weights are "
            f"{held} bytes"
        )


def _read(name: str | Path) -> GPT2LMHeadModel:
    """The model in a folder or on the hub; weights and JSON are read, no code is run."""
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedConfig

    if not (local := Path(name).exists()) and isinstance(name, Path):
        raise FileNotFoundError(f"no folder {name}")
    if local and not (Path(name) / "config.json").is_file():
        raise ValueError(f"{name}: not the folder of a model: there is no config.json in it")
    how = {"local_files_only": local}
    try:
        kind = PreTrainedConfig.get_config_dict(name, **how)[0].get("model_type")
        if kind != "gpt2":  # transformers would only warn
            raise ValueError(f"its model_type is {kind!r}")
        if local:
            _check_sizes(GPT2Config.from_pretrained(name, **how), Path(name))
        how |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
        theirs, found = GPT2LMHeadModel.from_pretrained(
            name, dtype="auto", trust_remote_code=False, **how
        )
    except Exception as error:  # each format of weights has its own
        if isinstance(error, OSError) and not local:
            place = "not a folder, and neither the hub nor its cache on this machine has it"
            raise FileNotFoundError(f"{name!r} is {place}: {error}") from error
        raise ValueError(f"{name}: not a GPT-2 that can be read: {error}") from error
    # transformers draws at random what is missing or does not fit, and drops what it cannot use.
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if keys := [key for key in found[problem] if not str(key).endswith(TRIANGLES)]:
            raise ValueError(f"{name}: {problem} in the weights: {sorted(keys)}")
    return theirs
