"""Any order: the holes of a canvas are filled, some of them in each pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..masks import Mask, as_mask, bidirectional
from ..masks.mask import INTEGERS
from ..model import GPT
from ..probes import eval_mode
from ..tokenizer import MASK
from .budgets import Budget, Round
from .drawing import choose
from .revising import Written
from .trace import Trace


def _margin(round: Round) -> Tensor:
    best = round.log_p.topk(2).values.exp()
    return best[:, 0] - best[:, 1]


def _entropy(round: Round) -> Tensor:
    return torch.special.entr(round.log_p.exp()).sum(-1)


# What comes first in each order: the greatest of these numbers, one for every hole (N,).
SCORES: dict[str, Callable[[Round], Tensor]] = {
    "left": lambda r: -r.holes.nonzero()[:, 1].double(),
    "random": lambda r: -r.random(),
    "confidence": lambda r: r.log_p.gather(-1, r.tokens[:, None])[:, 0],
    "margin": _margin,
    "entropy": lambda r: -_entropy(r),
    "uncertain": _entropy,
}
ORDERS = tuple(SCORES)


@torch.no_grad()
def write(
    model: GPT | Callable[[Tensor], Tensor],
    canvas: Tensor,
    order: str | Callable[[Round], Tensor] = "random",
    budget: Budget = 1,
    *,
    revise: Callable[[Written], Tensor] | None = None,
    block: int | None = None,
    max_passes: int | None = None,
    leave: bool = False,
    forbid_mask: bool = True,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    mask: Mask = bidirectional,
    mask_token: int = MASK,
    generator: torch.Generator | None = None,
) -> Trace:
    """Fill the [MASK]s of a canvas, int (B, T), in any order; words that are there stay.

    ``model``: output i names word i. In each pass it reads the canvas once, a word is drawn for
    every hole, and some of them are written:

    - ``order`` says which come first: "left"; "random"; "confidence" (the drawn word's
      probability), "margin" (the likeliest word's lead over the second), "entropy" (the lowest
      first), or "uncertain" (the highest entropy first). Or a callable, `Round` -> scores (N,), the
      greatest first.
    - ``budget`` says how many: so many words of a row, or `Passes`, `Ancestral`, `Certain`,
      `EveryDraw`, or any callable, `Round` -> bool (B, T).
    - ``block``: holes are open only in the leftmost block of so many tokens that has any.
    - ``revise``: `Flagged`, `LowConfidence`, or any callable, `Written` -> bool (M,): written words
      that become holes again. The pass that fills the last hole of a row (of a block, if there are
      blocks; what is behind it then stays) hides nothing, so revising adds no pass to what `Passes`
      and ``max_passes`` allow. (A callable that never stops doubting needs ``max_passes``.)

    The last of ``max_passes`` passes writes all that is left; with ``leave`` it does not, and the
    text may hold [MASK]. ``forbid_mask=False``: [MASK] may be drawn and then stays a hole, so that
    the number of passes must be limited. ``temperature``, ``top_k``, ``top_p``: as in `choose`;
    orders and budgets look at the model's own probabilities. ``mask``: for a `GPT`.

    Raises `ValueError` for a canvas without holes, an unknown order, budgets and limits below 1,
    settings of a draw that make no sense, ids outside the vocabulary, and a model without [MASK].
    """
    _check(canvas, order, budget, block, max_passes, leave, forbid_mask, mask_token)
    score = order if callable(order) else SCORES[order]
    fill = budget if callable(budget) else lambda now: now.first(budget)
    read = _reader(model, mask, canvas, mask_token)
    page = _Page(canvas, mask_token)
    while page.holes.any() and len(page.frames) != max_passes:
        last = len(page.frames) + 1 == max_passes and not leave
        forbid = (mask_token,) if forbid_mask or last else ()
        open_, turn = page.turn(None if last else block)
        written = page.written if revise else torch.zeros_like(open_)
        asked = open_ | written
        logits = read(page.ids, asked)
        answers = logits[open_[asked]]
        tokens, log_p = choose(answers, generator, temperature, top_k, forbid, top_p)
        now = Round(page.ids, open_, turn, tokens, answers, forbid, generator, score)
        drawn = now.spread(tokens, mask_token)
        chosen = open_ if last else fill(now)
        page.fill(chosen & (drawn != mask_token), drawn, now.spread(log_p, 0.0))
        if revise:
            flag = logits.double().softmax(-1)[:, mask_token]
            flag = torch.zeros_like(page.log_p).masked_scatter(asked, flag)
            page.hide(revise, written, flag)
        page.end_pass()
    return Trace(page.ids, tuple(page.frames), page.commits, page.revisions, page.row_passes)


@torch.no_grad()
def generate_diffusion(
    model: GPT | Callable[[Tensor], Tensor],
    canvas: Tensor,
    max_steps: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    *,
    mask: Mask = bidirectional,
    mask_token: int = MASK,
    generator: torch.Generator | None = None,
) -> Trace:
    """The note's sampler: draw every hole at once, and let [MASK] be drawn; what drew it waits.

    After ``max_steps`` passes a last one fills what is left, [MASK] forbidden and, as in the note,
    without ``top_k``. A special case of `write`, with its errors. (The note fails at temperature 0
    and leaves the model in training mode; this takes the likeliest words and leaves it as it was.)
    Source: source note 3 ("diffusion extension of nanoGPT"), step 1.5.
    """
    how = dict(temperature=temperature, mask=mask, mask_token=mask_token, generator=generator)
    whole = dict(order="left", budget=canvas.shape[-1], **how)
    trace = write(
        model, canvas, max_passes=max_steps, leave=True, forbid_mask=False, top_k=top_k, **whole
    )
    if not (trace.ids == mask_token).any():
        return trace
    last = write(model, trace.ids, **whole)
    return Trace(
        last.ids,
        trace.frames + last.frames,
        torch.where(last.commits > 0, trace.passes + 1, trace.commits),
        trace.revisions,
        trace.row_passes + last.row_passes,
    )


class _Page:
    """The canvas while it is written, and its history; all (B, T) but ``row_passes`` (B,)."""

    def __init__(self, canvas: Tensor, mask_token: int) -> None:
        self.ids, self.mask_token = canvas.clone(), mask_token
        self.given = canvas != mask_token
        self.commits = torch.zeros_like(canvas).masked_fill(~self.given, -1)
        self.revisions = torch.zeros_like(canvas)
        self.log_p = torch.zeros(canvas.shape, dtype=torch.float64, device=canvas.device)
        self.row_passes = torch.zeros_like(canvas[:, 0])
        self.frames: list[Tensor] = []
        self._before = self.ids
        self._turn, self._block = self.row_passes, torch.full_like(self.row_passes, -1)
        self._inside = torch.ones_like(self.given)  # the current block of each row

    @property
    def holes(self) -> Tensor:
        return self.ids == self.mask_token

    @property
    def written(self) -> Tensor:
        """Words that were written, in blocks that are not finished."""
        open_ = (self.holes & self._inside).any(1, keepdim=True)
        return ~self.given & ~self.holes & self._inside & open_

    def turn(self, block: int | None) -> tuple[Tensor, Tensor]:
        """The holes of each row's current block, and how many passes the row has had there."""
        size = block or self.ids.shape[1]
        current = self.holes.byte().argmax(1) // size
        self._turn = torch.where(current == self._block, self._turn + 1, 1)
        self._block = current
        place = torch.arange(self.ids.shape[1], device=self.ids.device)
        self._inside = place // size == current[:, None]
        return self.holes & self._inside, self._turn

    def fill(self, chosen: Tensor, drawn: Tensor, log_p: Tensor) -> None:
        self.ids = torch.where(chosen, drawn, self.ids)
        self.log_p = torch.where(chosen, log_p, self.log_p)
        self.commits = self.commits.masked_fill(chosen, len(self.frames) + 1)

    def hide(self, revise: Callable[[Written], Tensor], written: Tensor, flag: Tensor) -> None:
        """What was ``written`` before this pass, in blocks that it has not finished, is revised."""
        written = written & self.written
        row = written.nonzero()[:, 0]
        doubted = revise(Written(row, flag[written], self.log_p[written], self.revisions[written]))
        again = torch.zeros_like(written).masked_scatter(written, doubted)
        self.ids = self.ids.masked_fill(again, self.mask_token)
        self.commits = self.commits.masked_fill(again, -1)
        self.revisions = self.revisions + again

    def end_pass(self) -> None:
        self.row_passes = self.row_passes + (self.ids != self._before).any(1)
        self._before = self.ids
        self.frames.append(self.ids)


def _reader(
    model: GPT | Callable, mask: Mask, canvas: Tensor, mask_token: int
) -> Callable[[Tensor, Tensor], Tensor]:
    """(ids, asked), both (B, T) -> logits (M, V) of the asked outputs; other rows are not read."""
    per_row = as_mask(mask).batch is not None
    if isinstance(model, GPT):
        _check_vocabulary(canvas, mask_token, model.config.vocab_size)
        as_mask(mask).check_batch(len(canvas))

    def read(ids: Tensor, asked: Tensor) -> Tensor:
        rows = asked.any(1)
        if not isinstance(model, GPT):
            logits = model(ids[rows])[asked[rows]]
            _check_vocabulary(ids, mask_token, logits.shape[-1])
            return logits
        with eval_mode(model):
            hidden = model.hidden(ids[rows], mask.take(rows) if per_row else mask)
            return model.head(hidden[asked[rows]])

    return read


def _check(canvas, order, budget, block, max_passes, leave, forbid_mask, mask_token) -> None:
    if not isinstance(canvas, Tensor):
        raise TypeError(f"a canvas is an int tensor (B, T), got {type(canvas).__name__}")
    if canvas.dim() != 2 or canvas.dtype not in INTEGERS:
        raise ValueError(f"a canvas is int (B, T), got {canvas.dtype} {tuple(canvas.shape)}")
    if not (canvas == mask_token).any():
        raise ValueError("nothing to write: the canvas has no [MASK]")
    if not callable(order) and order not in SCORES:
        raise ValueError(f"order is one of {ORDERS}, got {order!r}")
    if not callable(budget) and not isinstance(budget, int):
        raise TypeError(f"a budget is a number of words or a callable, got {budget!r}")
    if isinstance(budget, int) and budget < 1:
        raise ValueError(f"the budget is at least 1 word per pass, got {budget}")
    for name, value in (("block", block), ("max_passes", max_passes)):
        if not isinstance(value, int | None):
            raise TypeError(f"{name} is a whole number, got {value!r}")
    if block is not None and block < 1:
        raise ValueError(f"a block has at least 1 token, got {block}")
    if max_passes is not None and max_passes < 1:
        raise ValueError(f"max_passes is at least 1, got {max_passes}")
    if max_passes is None and (leave or not forbid_mask):
        raise ValueError("leave=True and forbid_mask=False need max_passes: when is it enough?")


def _check_vocabulary(ids: Tensor, mask_token: int, vocab_size: int) -> None:
    if not 0 <= mask_token < vocab_size:
        raise ValueError(f"[MASK] has id {mask_token}, and the model has {vocab_size} tokens")
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocab_size:
        raise ValueError(f"ids lie in 0..{vocab_size - 1}, found {low}..{high}")
