"""Sampling: in which order text is written.

`generate` writes left to right with a causal model and its cache. `write` fills the holes of a
canvas with a model whose output i names word i; what differs between samplers is which holes are
filled in the next pass (`order`), how many (`budget`), and what is hidden again (`revise`).

A *model* is anything with the right signature: our `GPT`, or the oracle (`Gazette.causal`,
`Gazette.denoiser`). The public samplers of masked diffusion models share this loop.
"""

from .anyorder import ORDERS, generate_diffusion, write
from .budgets import Ancestral, Certain, EveryDraw, Passes, Round
from .drawing import choose, settled
from .left import aligned, generate, generate_backward
from .revising import REVISERS, Flagged, LowConfidence
from .trace import Trace

__all__ = [
    "ORDERS",
    "REVISERS",
    "Ancestral",
    "Certain",
    "EveryDraw",
    "Flagged",
    "LowConfidence",
    "Passes",
    "Round",
    "Trace",
    "aligned",
    "choose",
    "generate",
    "generate_backward",
    "generate_diffusion",
    "settled",
    "write",
]
