"""Objectives: what is hidden, what is asked, at which positions. One family a file."""

from .base import Batch, Objective
from .denoising import Denoising
from .diffusion import AbsorbingDiffusion
from .directions import ForwardBackward, NextToken, PreviousToken
from .labels import Answering, Asking, Classifying, Labelled, Tagged, Tagging
from .masked import MaskedLM, NextMasked
from .mixed import Mixed
from .prefix import PrefixLM
from .rows import Rows

__all__ = [
    "AbsorbingDiffusion",
    "Answering",
    "Asking",
    "Batch",
    "Classifying",
    "Denoising",
    "ForwardBackward",
    "Labelled",
    "MaskedLM",
    "Mixed",
    "NextMasked",
    "NextToken",
    "Objective",
    "PrefixLM",
    "PreviousToken",
    "Rows",
    "Tagged",
    "Tagging",
]
