"""The leak check: can an answer reach its own question?

`certificate` answers before any training, from the objective alone: follow the mask through the
layers and see whether a word that an output must name is shown at an input the output reaches.
`audit` answers afterwards, for anybody's model: measure which inputs move which outputs
(`mylib.probes`) and name the first pair that is not as expected.

Source: reachability in a layered graph; the certificate is ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .auditing import audit, pattern
from .masks import reach
from .mixers import layer_influence
from .objectives import Batch, Objective, Rows
from .probes import influence, prefix_invariance
from .reports import Report
from .tokenizer import BOS, EOS

__all__ = [
    "Certificate",
    "Leak",
    "Report",
    "audit",
    "certificate",
    "hops_of",
    "influence",
    "layer_influence",
    "leak_path",
    "positions_tell",
    "prefix_invariance",
]


@dataclass(frozen=True)
class Leak:
    """One answer that reaches its own question.

    Output ``output`` of row ``row`` must name the clean word of position ``source``; input
    ``input`` shows that word; ``path`` leads from the output down to the input, one position per
    layer (the first is the output, the last the input).
    """

    batch: int
    row: int
    output: int
    source: int
    input: int
    path: tuple[int, ...]

    def __str__(self) -> str:
        return (
            f"row {self.row}: output {self.output} must name word {self.source} and sees it: "
            + hops_of(self.path)
        )


@dataclass(frozen=True)
class Certificate:
    """What `certificate` found. ``copies`` are answers shown on purpose, apart from leaks."""

    objective: str
    layers: int
    asked: int
    leaks: tuple[Leak, ...]
    copies: int

    @property
    def sound(self) -> bool:
        """No hidden answer reaches its question."""
        return not self.leaks

    @property
    def copied_share(self) -> float:
        """Share of the asked answers that are shown on purpose."""
        return self.copies / self.asked

    def __str__(self) -> str:
        verdict = "sound" if self.sound else f"{len(self.leaks)} LEAKS, the first: {self.leaks[0]}"
        return (
            f"{self.objective}, {self.layers} layers: {self.asked} answers, "
            f"{self.copies} declared copies; {verdict}"
        )


def certificate(
    objective: Objective,
    rows: Rows,
    layers: int,
    generator: torch.Generator | None = None,
    heads: int | None = None,
) -> Certificate:
    """Check the passes that ``objective`` makes of ``rows`` in a network of ``layers`` layers.

    They are those of one draw of ``generator`` (seed 0 if not given): where the draw decides who
    may look at whom, ask again with others. The check is static and complete for what flows through
    attention: an answer that it calls hidden cannot reach its question whatever the weights are.
    What positions or lengths tell is outside it (`positions_tell` asks that, `prefix_invariance`
    measures it). ``heads`` is needed only by a mask that differs from head to head.

    Raises `ValueError` if an output is asked whose query may look at nobody: it would answer from
    a vector of zeros.

    >>> from mylib.masks import bidirectional
    >>> from mylib.objectives import NextToken
    >>> rows = Rows.padded([torch.arange(6, 10)])
    >>> certificate(NextToken(), rows, layers=3).sound
    True
    >>> print(certificate(NextToken(bidirectional), rows, layers=1).leaks[0])
    row 0: output 0 must name word 1 and sees it: 0 <- 1
    """
    noise = torch.Generator().manual_seed(0) if generator is None else generator
    leaks: list[Leak] = []
    asked = copies = 0
    for number, batch in enumerate(objective.passes(rows, noise)):
        visible = pattern(batch.mask, batch.inputs.shape[1], len(batch.inputs), heads)
        _refuse_blind(batch, visible)
        asked += len(batch.targets)
        owner, output = batch.asked.nonzero(as_tuple=True)
        shows = (batch.shown[owner] == batch.source[:, None]) & (batch.source >= 0)[:, None]
        hits = reach(visible, layers)[owner, output] & shows
        copies += int((hits.any(-1) & batch.copied).sum())
        for n in (hits.any(-1) & ~batch.copied).nonzero()[:, 0].tolist():
            b, i = int(owner[n]), int(output[n])
            j = int(hits[n].nonzero()[0])
            path = leak_path(visible[b], layers, i, j)
            leaks.append(Leak(number, b, i, int(batch.source[n]), j, path))
    return Certificate(repr(objective), layers, asked, tuple(leaks), copies)


def positions_tell(objective: Objective, layers: int = 2) -> bool:
    """Do positions tell the length of the text to the reader who has seen least of it?

    Two documents that are alike for five tokens at both ends and differ in length; of each, the
    asked output that reaches the fewest inputs. If the positions that it reaches are not the same
    ones, it can tell the two lengths apart before a word has been named. `certificate` does not
    see this: no hidden word is shown.

    >>> from mylib.objectives import PreviousToken
    >>> positions_tell(PreviousToken("start")), positions_tell(PreviousToken("end"))
    (True, False)
    """
    seen = []
    for middle in (8, 12):
        inner = [*range(10, 15), *range(30, 30 + middle), *range(20, 25)]
        rows = objective.alone([torch.tensor([BOS, *inner, EOS])], 44)
        found = []
        for batch in objective.passes(rows, torch.Generator().manual_seed(0)):
            reached = reach(pattern(batch.mask, batch.inputs.shape[1], 1), layers)[0]
            least = min(batch.asked[0].nonzero()[:, 0], key=lambda i: int(reached[i].sum()))
            found.append(batch.positions[0, reached[least]].tolist())
        seen.append(found)
    return seen[0] != seen[1]


def leak_path(visible: Tensor, layers: int, output: int, source: int) -> tuple[int, ...]:
    """A way from ``output`` (above the last layer) to ``source`` (below the first).

    ``visible`` bool (T, T). One position per layer boundary, layers + 1 in all, with as few moves
    as needed. Raises `ValueError` where there is none.
    """
    step = visible | torch.eye(len(visible), dtype=torch.bool)
    below = [reach(visible, layer)[:, source] for layer in range(layers + 1)]
    if not below[layers][output]:
        raise ValueError(f"input {source} does not reach output {output} in {layers} layers")
    path = [output]
    for layer in range(layers, 0, -1):
        here = path[-1]
        onward = step[here] & below[layer - 1]
        # Straight to the source if it is in sight, else stay, else the first that leads there.
        choices = [source, here, *onward.nonzero()[:, 0].tolist()]
        path.append(next(c for c in choices if onward[c]))
    return tuple(path)


def hops_of(path: tuple[int, ...]) -> str:
    """A path in words, layers in which it stays where it is left out.

    >>> hops_of((0, 3, 3, 1))
    '0 <- 3 <- 1'
    """
    moves = [p for n, p in enumerate(path) if n == 0 or p != path[n - 1]]
    return " <- ".join(map(str, moves))


def _refuse_blind(batch: Batch, visible: Tensor) -> None:
    blind = batch.asked & ~visible.any(-1)
    if blind.any():
        row, output = blind.nonzero()[0].tolist()
        raise ValueError(f"output {output} of row {row} is asked, but its query may look at nobody")
