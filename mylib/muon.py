"""Muon in single precision.

`torch.optim.Muon` orthogonalises in bfloat16, which a CPU without bfloat16 units emulates: on one
core its step took several times as long as forward and backward together (measured:
``python -m mylib.experiments.optimiser``). This one stays in the parameter's precision and treats
all matrices of one shape in one batch.

Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024); the factor
0.2 * sqrt(max(rows, columns)) that gives updates of AdamW's size is that of Liu et al., "Muon is
Scalable for LLM Training" (2025).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalised(g: Tensor, steps: int = 5) -> Tensor:
    """The nearest matrix with all singular values near 1, for each matrix of (..., rows, columns).

    Newton-Schulz iteration with the odd quintic of the source; its fixed band is about 0.7 to 1.2.

    >>> values = torch.linalg.svdvals(orthogonalised(torch.diag(torch.tensor([9.0, 3.0, 1.0]))))
    >>> bool(((values > 0.6) & (values < 1.3)).all())
    True
    """
    a, b, c = COEFFICIENTS
    tall = g.shape[-2] > g.shape[-1]
    x = g.mT if tall else g
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised; for 2-D parameters."""

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))
        if wrong := [
            tuple(p.shape) for g in self.param_groups for p in g["params"] if p.dim() != 2
        ]:
            raise ValueError(f"Muon is for matrices, got parameters of shape {wrong[0]}")

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    alike[p.shape].append(p)
            for shape, params in alike.items():
                self._update(params, 0.2 * max(shape) ** 0.5, group)

    def _update(self, params: list[Tensor], scale: float, group: dict) -> None:
        for p in params:
            if "momentum" not in self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        momenta = [self.state[p]["momentum"] for p in params]
        grads = [p.grad for p in params]
        torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
        ahead = torch._foreach_lerp(grads, momenta, group["momentum"])  # Nesterov
        updates = orthogonalised(torch.stack(ahead)).unbind()
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(params, list(updates), alpha=-group["lr"] * scale)
