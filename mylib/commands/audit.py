"""``python -m mylib audit MODEL --expect causal``: who sees whom in a saved model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from torch import nn

from .. import masks
from ..leaks import audit
from ..model import GPT

MASKS = ("causal", "anticausal", "bidirectional")


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Measure which tokens move which outputs, in the whole model and in each module that "
        "mixes tokens, for one row alone, without padding, with right and with left padding. "
        "Exit code: 0 as expected, 1 not as expected, 2 cannot be judged."
    )
    parser.add_argument(
        "model", type=Path, help="a .safetensors file of mylib, or a Hugging Face folder"
    )
    parser.add_argument("--expect", choices=["causal", "bidirectional"], required=True)
    parser.add_argument(
        "--mask",
        choices=MASKS,
        help="under which mask a model of mylib is run (it has none of its own; default: causal)",
    )
    parser.add_argument(
        "--backend",
        help="transformers' attn_implementation (eager, sdpa, ...); they have failed apart",
    )
    parser.add_argument(
        "--length",
        type=int,
        default=8,
        help="tokens in the text (default: 8); a window shows only in a longer text",
    )
    parser.add_argument("--json", action="store_true", help="the whole report as JSON")


def run(options: argparse.Namespace) -> int:
    if options.length < 2:
        raise ValueError(f"--length is at least 2, got {options.length}")
    try:
        model, inputs = load(options.model, options.mask, options.backend)
        report = audit(model, options.expect, length=options.length, **inputs)
    except Exception as error:  # other people's models fail in other people's ways
        raise ValueError(f"{options.model} cannot be judged: {error}") from error
    if options.json:
        facts = {"model": str(options.model), "length": options.length}
        print(json.dumps(facts | report.as_dict(), indent=2))
    else:
        print(report)
        for problem in report.problems[1:]:
            print(f"  also: {problem}")
        for note in report.notes:
            print(f"  note: {note}")
        if report.first:
            print(f"\n{report.drawing()}")
    return 0 if report.ok else 1


def load(
    path: Path, mask: str | None, backend: str | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """The model of a file or folder, and what it must be called with. Runs no code from there."""
    if not path.is_dir():
        if backend is not None:
            raise ValueError("--backend is for models of transformers; ours has one")
        return GPT.load(path), {"mask": getattr(masks, mask or "causal")}
    if mask is not None:
        raise ValueError("--mask is for models of mylib; a Hugging Face model brings its own")
    import torch
    from transformers import AutoModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model, told = AutoModel.from_pretrained(
        path,
        output_loading_info=True,
        local_files_only=True,
        trust_remote_code=False,
        dtype=torch.float32,
        attn_implementation=backend,
    )
    lost = [*told["missing_keys"], *(key for key, *_ in told["mismatched_keys"])]
    lost = [key for key in lost if "pooler" not in key]
    if lost:  # transformers draws them at random and goes on
        raise ValueError(f"{len(lost)} weights are not in the folder, the first: {sorted(lost)[0]}")
    return model.eval(), {}
