"""Objectives: what is hidden, what is asked, at which positions. One family a file."""

from .base import Batch, Objective
from .denoising import Denoising
from .directions import ForwardBackward, NextToken, PreviousToken
from .mixed import Mixed
from .rows import Rows

__all__ = [
    "Batch",
    "Denoising",
    "ForwardBackward",
    "Mixed",
    "NextToken",
    "Objective",
    "PreviousToken",
    "Rows",
]
