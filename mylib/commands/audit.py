"""``python -m mylib audit MODEL --expect causal``: who sees whom in a saved model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from torch import nn

from .. import masks
from ..leaks import audit
from ..model import GPT

MASKS = ("causal", "anticausal", "bidirectional")


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Measure which tokens move which outputs, in the whole model and in each attention "
        "module. Exit code: 0 as expected, 1 not as expected, 2 cannot be judged."
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


def run(options: argparse.Namespace) -> int:
    try:
        model, inputs = load(options.model, options.mask)
        report = audit(model, options.expect, **inputs)
    except Exception as error:  # other people's models fail in other people's ways
        raise ValueError(f"{options.model} cannot be judged: {error}") from error
    print(report)
    return 0 if report.ok else 1


def load(path: Path, mask: str | None) -> tuple[nn.Module, dict[str, Any]]:
    """The model of a file or folder, and what it must be called with. Runs no code from there."""
    if not path.is_dir():
        return GPT.load(path), {"mask": getattr(masks, mask or "causal")}
    if mask is not None:
        raise ValueError("--mask is for models of mylib; a Hugging Face model brings its own")
    import torch
    from transformers import AutoModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model = AutoModel.from_pretrained(
        path, local_files_only=True, trust_remote_code=False, dtype=torch.float32
    )
    return model.eval(), {}
