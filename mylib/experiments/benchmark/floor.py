"""How long training takes to within 5 % of the floor, on the small edition.

Ours is `mylib.train.fit` as it stands: packed rows, Muon and AdamW, its default learning rate. A
peer has the usual recipe: documents padded to the longest of the batch, AdamW with betas 0.9 and
0.95, gradients clipped to norm 1, a tenth of the steps warming up, then a cosine to zero; its
learning rate is tuned, ours is not. All see the same documents in the same order and start from the
same weights.

Every run has its own schedule and is trained to its end. It counts where the trained model's excess
over the oracle on fresh documents is at most 5 % of the entropy. Reported is the shortest run that
counts, in processor seconds of training alone. All climb the same ladder of lengths until a run
counts, and then try the length half way back. transformers' learning rate is the best of a few at
one length. The other packages are trained at its rate, for as long as it needed, and longer only
where that does not count: they are the same network, or nearly.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import torch
from torch import nn

from ...evaluation import Model, evaluate
from ...gazette import Gazette
from ...metrics import paired_excess
from ...objectives import NextToken
from ...train import draw, fit, schedule
from .peers import FASTEST_OF_EACH, load
from .rounds import fresh
from .training import padded_loss


def time_to_floor(
    sizes: dict, batch: int, judged: int, ladder: list[int], rates: list[float], tuned_at: int
) -> dict:
    """Every run of every contestant, and for each the shortest that counts (or None)."""
    contest = Contest(sizes, batch, judged)
    contest.ours(1, "warming up")  # what `fit` imports is no training
    contest.cells.clear()
    best = {"ours": shortest(ladder, 0, lambda steps: contest.ours(steps, "ours"))}
    best |= contest.peers(ladder, rates, tuned_at)
    steps = best["ours"]["steps"] if best["ours"] else ladder[0]
    best["ours again"] = contest.ours(steps, "ours again")
    return {
        **dict(floor=round(contest.floor, 4), judged_on=judged, best=best, cells=contest.cells),
        "times_as_fast": {name: ratio(cell, best["ours"]) for name, cell in best.items()},
    }


def shortest(
    ladder: list[int], start: int, run: Callable[[int], dict], halve: bool = True
) -> dict | None:
    """The shortest run that counts, climbing from ``ladder[start]``; None if none does.

    >>> run = lambda steps: {"steps": steps, "counts": steps >= 130, "seconds": steps}
    >>> shortest([100, 140, 200], 0, run)["steps"], shortest([100], 0, run)
    (140, None)
    """
    for place in range(start, len(ladder)):
        cell = run(ladder[place])
        if cell["counts"]:
            back = run((ladder[place - 1] + ladder[place]) // 2) if halve and place else cell
            return back if back["counts"] else cell
    return None


def least(cells: list[dict | None]) -> dict | None:
    """The run of the fewest steps."""
    return min((cell for cell in cells if cell), key=lambda cell: cell["steps"], default=None)


def ratio(theirs: dict | None, ours: dict | None) -> float | None:
    return round(theirs["seconds"] / ours["seconds"], 3) if theirs and ours else None


class Contest:
    """The small edition, who is judged on it how, and every run so far."""

    def __init__(self, sizes: dict, batch: int, judged: int) -> None:
        self.sizes, self.batch = sizes, batch
        self.gazette, self.cells = Gazette.load(), []
        self.floor = self.gazette.entropy
        self.judged = self.gazette.sample(judged, torch.Generator().manual_seed(2**31))
        self.oracle = -self.gazette.log_prob(self.gazette.canvas(self.judged))

    def ours(self, steps: int, name: str) -> dict:
        model = fresh(self.sizes)
        start = time.process_time()
        fit(model, NextToken(), self.gazette, steps, batch=self.batch, progress=False)
        return self.cell(name, model, steps, time.process_time() - start, None)

    def peers(self, ladder: list[int], rates: list[float], tuned_at: int) -> dict:
        """transformers with its rate tuned, then the others from where it arrived."""
        first, *others = FASTEST_OF_EACH
        tried = [self.peer(first, tuned_at, rate) for rate in rates]
        rate = min(tried, key=lambda cell: cell["excess"])["learning_rate"]
        start = sum(length <= tuned_at for length in ladder)
        climbed = shortest(ladder, start, lambda steps: self.peer(first, steps, rate))
        best = {first: least([climbed, *(cell for cell in tried if cell["counts"])])}
        length = best[first]["steps"] if best[first] else ladder[-1]
        longer = [length, *(each for each in ladder if each > length)]
        for name in load(fresh(self.sizes), others):
            run = functools.partial(self.peer, name, rate=rate)
            best[name] = shortest(longer, 0, run, halve=False)
        return best

    def peer(self, name: str, steps: int, rate: float) -> dict:
        model = load(fresh(self.sizes), [name])[name]
        start = time.process_time()
        usual_recipe(model, self.gazette, steps, self.batch, rate)
        return self.cell(name, model, steps, time.process_time() - start, rate)

    def cell(self, name: str, model: Model, steps: int, seconds: float, rate: float | None) -> dict:
        """What a run reached, on fresh documents of which the oracle's cost is known."""
        found = evaluate(model, NextToken(), self.judged)
        excess = paired_excess(found, self.oracle)
        self.cells.append(
            {
                **dict(contestant=name, steps=steps, learning_rate=rate),
                **dict(seconds=round(seconds, 2), held_out=round(float(found.mean()), 4)),
                **dict(excess=round(excess.mean, 4), low=round(excess.low, 4)),
                **dict(high=round(excess.high, 4), counts=excess.mean <= 0.05 * self.floor),
            }
        )
        cell = self.cells[-1]
        print(
            f"  {name}: {steps} steps, rate {rate}, excess {cell['excess']}, {seconds:.0f} s",
            flush=True,
        )
        return cell


def usual_recipe(model: nn.Module, source: Gazette, steps: int, batch: int, rate: float) -> None:
    """Padded batches, AdamW, warm-up and cosine, on the documents that `fit` would draw."""
    loss = padded_loss(model.train())
    optimizer = torch.optim.AdamW(model.parameters(), rate, (0.9, 0.95), weight_decay=0.0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * schedule(step, steps, 0.1)
        loss(draw(source, batch, 0, step)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
