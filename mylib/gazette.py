"""The Gazette: a corpus whose entropy and whose every posterior are known exactly.

`Gazette.load` reads an edition. It can be sampled, it knows its entropy, and it answers what a
perfect reader would answer: p(word | any set of shown words). The arithmetic is in
`mylib.templates`, the grammar in ``data/*.toml``.

Shapes: B documents, T positions (at most C, the canvas), V tokens. Units: nats.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from . import tokenizer
from .files import data_path
from .grammar import TAGS, Grammar, load_grammar
from .questions import Asked, questions
from .templates import Templates
from .tokenizer import MASK, PAD

EDITIONS = {"small": "gazette-small.toml", "sunday": "gazette.toml"}
CHUNK = 4_000_000  # numbers held at once; a larger batch takes longer, not more memory


class Posterior(NamedTuple):
    """What the evidence says about every position.

    ``log_probs`` float64 (B, T, V); ``dead`` bool (B,), `True` where no document of the grammar
    fits (its ``log_probs`` are uniform); ``log_evidence`` float64 (B,), nats.
    """

    log_probs: Tensor
    dead: Tensor
    log_evidence: Tensor


class Gazette:
    """One edition of the newspaper: a distribution over documents, and its oracle."""

    def __init__(self, grammar: Grammar) -> None:
        self.grammar = grammar
        self._templates = Templates(grammar)
        self.vocab_size = self._templates.vocab_size
        self.length = self._templates.length

    @classmethod
    def load(cls, path: str | Path | None = None) -> Gazette:
        """An edition: "small" (the default, *Evening*), "sunday", or the path of a grammar file.

        Raises `GrammarError` (a `ValueError`) for a mistake in the file, and `ValueError` for a
        word that the tokenizer does not have as one token.
        """
        path = "small" if path is None else path
        return cls(load_grammar(data_path(EDITIONS[path]) if path in EDITIONS else path))

    # -- documents -------------------------------------------------------------------------------

    def sample(self, n: int, generator: torch.Generator) -> list[Tensor]:
        """``n`` fresh documents, each a 1-D tensor ``<bos> ... <eos>`` of its own length."""
        ids, template, _ = self._templates.draw(n, generator)
        ends = (self._templates.lengths[template] + 2).tolist()
        return [row[:end] for row, end in zip(ids, ends, strict=True)]

    def canvas(self, documents: list[Tensor]) -> Tensor:
        """Documents on canvases of the edition's greatest length: int (B, C), padded right."""
        if longest := max((len(d) for d in documents if len(d) > self.length), default=0):
            raise ValueError(f"a document of {longest} tokens on a canvas of {self.length}")
        return torch.stack([pad(d, (0, self.length - len(d)), value=PAD) for d in documents])

    def text(self, ids: Tensor) -> str:
        """A document as a reader sees it."""
        return tokenizer.decode(ids.tolist())

    # -- entropy ---------------------------------------------------------------------------------

    @cached_property
    def entropy(self) -> float:
        """Entropy of a document, nats. Exact if `entropy_error` is 0."""
        t = self._templates
        draws = torch.special.entr(t.draw_weights).sum(-1)
        draws = torch.zeros_like(t.prior).index_add_(0, t.draw_template, draws)
        choices = torch.special.entr(t.prior) + t.prior * draws
        return float(choices.sum()) - self._collisions[0]

    @cached_property
    def entropy_error(self) -> float:
        """Standard error of `entropy`, nats; 0.0 when no two templates can give one text."""
        return self._collisions[1]

    @cached_property
    def length_probs(self) -> Tensor:
        """p(number of words), float64 (C,); <bos> and <eos> are not counted."""
        t = self._templates
        empty = torch.zeros(self.length, dtype=torch.float64)
        return empty.index_add_(0, t.lengths, t.prior)

    @cached_property
    def length_entropy(self) -> float:
        """Entropy of the number of words, nats: what knowing the length is worth."""
        return float(torch.special.entr(self.length_probs).sum())

    @cached_property
    def mean_length(self) -> float:
        """Expected words of a document, <bos> and <eos> not counted."""
        return float(self._templates.prior @ self._templates.lengths.double())

    @cached_property
    def colliding(self) -> list[tuple[int, int]]:
        """Pairs of templates that share a possible word at every position."""
        together = torch.ones(len(self._templates.prior), len(self._templates.prior)).bool()
        for words in self._templates.possible().float():
            together &= (words @ words.T) > 0
        return [tuple(pair) for pair in together.triu(1).nonzero().tolist()]

    @cached_property
    def _collisions(self) -> tuple[float, float]:
        """Nats by which colliding templates lower the entropy, and the standard error.

        E[log p(text) - log p(text, template, rows)], by Monte Carlo; (0, 0) without collisions.
        """
        if not self.colliding:
            return 0.0, 0.0
        t, n = self._templates, 20_000
        ids, template, rows = t.draw(n, torch.Generator().manual_seed(0))
        picked = t.draw_weights.log().expand(n, -1, -1).gather(-1, rows[..., None])[..., 0]
        mine = t.draw_template[None, :] == template[:, None]
        alone = t.prior[template].log() + picked.masked_fill(~mine, 0.0).sum(-1)
        gain = self.log_prob(ids) - alone
        return float(gain.mean()), float(gain.std() / math.sqrt(n))

    # -- whole documents -------------------------------------------------------------------------

    def log_prob(self, ids: Tensor) -> Tensor:
        """log p of whole documents, nats (B,); -inf for what the grammar cannot write.

        ``ids`` (B, T): rows that begin with <bos>, hold <eos>, and may be padded on the right.
        """
        ids = self._whole(ids)
        return self._log_evidence(ids, torch.ones_like(ids, dtype=torch.bool))

    def is_valid(self, ids: Tensor) -> Tensor:
        """Whether the grammar can write these documents: bool (B,)."""
        return self.log_prob(ids) > -math.inf

    def nearest(self, ids: Tensor) -> Tensor:
        """Fewest positions to change to get a document of the grammar, padded right: int (B,)."""
        t, found = self._templates, []
        ids, beyond = self._whole(ids).split([self.length, max(ids.shape[1] - self.length, 0)], 1)
        for i, v in self._chunks(ids, torch.ones_like(ids, dtype=torch.bool)):
            fixed, cells = (score.isinf().double() for score in t.seen(i, v))
            wrong = t.per_draw(cells).masked_fill(t.draw_weights == 0, math.inf).amin(-1)
            found.append(t.per_template(fixed, wrong).amin(-1).long())
        return torch.cat(found) + (beyond != PAD).sum(-1)

    def surprise(self, ids: Tensor, order: Tensor | None = None) -> Tensor:
        """-log p of each word given those revealed before it, nats (B, T).

        ``order`` (T,) is the order of revealing, left to right if not given. Whatever the order,
        a row sums to -log_prob. A word that makes the document impossible has surprise inf, the
        words after it 0.
        """
        batch, time = ids.shape
        order = torch.arange(time) if order is None else order
        if sorted(order.tolist()) != list(range(time)):
            raise ValueError(f"an order of {time} positions names each once, got {order.tolist()}")
        rank = order.argsort()
        shown = rank[None, :] < torch.arange(time + 1)[:, None]  # (T + 1, T) after so many reveals
        rows = ids[:, None].expand(-1, time + 1, -1).reshape(-1, time)
        log_p = self._log_evidence(rows, shown.repeat(batch, 1)).view(batch, time + 1)
        return (log_p[:, :-1] - log_p[:, 1:]).nan_to_num(0.0, posinf=math.inf)[:, rank]

    def surprise_backward(self, ids: Tensor) -> Tensor:
        """-log p of each token given those after it, nats (T,), for one document <bos> ... <eos>.

        The reader begins at <eos>, which costs nothing, and does not know how long the document
        is: at <bos> it pays for finding that it ends there. Sums to -log_prob.
        """
        time, size = len(ids), self.length
        if ids.dim() != 1 or time > size:
            raise ValueError(f"one document of at most {size} tokens, got {tuple(ids.shape)}")
        places = [(i, end) for i in range(time) for end in range(time - 1 - i, size)]
        rows = torch.full((len(places), size), PAD)
        shown = torch.zeros_like(rows, dtype=torch.bool)
        for n, (i, end) in enumerate(places):  # the tokens from i on, <eos> standing at ``end``
            place = slice(end - (time - 1 - i), end + 1)
            rows[n, place], shown[n, place] = ids[i:], True
        scores = self._log_evidence(rows, shown)
        first = torch.tensor([i for i, _ in places])
        log_p = torch.stack([scores[first == i].logsumexp(0) for i in range(time)])
        after = torch.cat([log_p[1:], torch.zeros(1, dtype=log_p.dtype)])
        return (after - log_p).nan_to_num(0.0, posinf=math.inf)

    # -- what the evidence says ------------------------------------------------------------------

    def posterior(self, given: Tensor, visible: Tensor | None = None) -> Posterior:
        """p(word at every position | evidence), in logarithms.

        Two forms. ``posterior(ids, visible=)``: ids (B, T) of which those with `True` are shown.
        ``posterior(evidence)``: likelihoods e_i(v) >= 0, float (B, T, V), as `evidence` makes
        them. Positions beyond T are hidden, so a short row says nothing about its length.
        """
        if visible is not None:
            scores = (self._templates.seen(i, v) for i, v in self._chunks(given, visible))
            return self._collect(scores, given.shape[1])
        if not given.is_floating_point() or given.dim() != 3 or given.shape[-1] != self.vocab_size:
            raise ValueError(
                f"posterior takes (ids, visible=bool like ids) or evidence: float (B, T, "
                f"{self.vocab_size}); got {given.dtype} {tuple(given.shape)} alone"
            )
        if given.shape[1] > self.length:
            raise ValueError(f"{given.shape[1]} positions on a canvas of {self.length}")
        if not ((given >= 0) & (given < math.inf)).all():
            raise ValueError("likelihoods are finite numbers, 0 or more")
        scores = (self._templates.weighed(part) for part in given.split(self._rows_at_once))
        return self._collect(scores, given.shape[1])

    def evidence(self, ids: Tensor, visible: Tensor, noise: float = 0.0) -> Tensor:
        """Likelihoods (B, T, V): all ones where hidden, one-hot where shown.

        With ``noise`` rho a token is shown as it is with probability 1 - rho, else as one of the
        (other) words of the lexicon, each equally likely.
        """
        if not 0 <= noise <= 1:
            raise ValueError(f"a noise rate lies in [0, 1], got {noise}")
        self._check(ids, visible)
        words = tokenizer.lexicon()
        seen = torch.full((*ids.shape, self.vocab_size), noise / len(words), dtype=torch.float64)
        seen[..., words.start : words.stop] = noise / (len(words) - 1)
        seen[(ids < words.start) | (ids >= words.stop)] = 0.0  # noise shows words only
        seen.scatter_(-1, ids[..., None], 1 - noise)
        return torch.where(visible[..., None], seen, 1.0)

    def denoiser(self, ids: Tensor) -> Tensor:
        """The oracle with a masked model's signature: output i names word i, log p (B, T, V).

        Everything but [MASK] is taken as shown.
        """
        return self.posterior(ids, visible=ids != MASK).log_probs

    def causal(self, ids: Tensor) -> Tensor:
        """The oracle with a causal model's signature: output i names word i + 1; (B, T, V)."""
        batch, time = ids.shape
        shown = torch.ones(time, time + 1).tril().bool()
        rows = pad(ids, (0, 1))[:, None].expand(-1, time, -1).reshape(-1, time + 1)
        found = []
        step = max(1, 64 // max(time, 1))  # (rows, T, V) of a whole batch would fill the memory
        for part, seen in zip(
            rows.split(step * time), shown.repeat(batch, 1).split(step * time), strict=True
        ):
            log_probs = self.posterior(part, visible=seen).log_probs
            here = torch.arange(time).repeat(len(part) // time)
            found.append(log_probs[torch.arange(len(part)), here + 1])
        return torch.cat(found).view(batch, time, self.vocab_size)

    def tag_posterior(self, ids: Tensor, visible: Tensor) -> Tensor:
        """p(entity tag at every position | shown words): float64 (B, T, tags), tags: `TAGS`.

        Uniform where no document of the grammar fits.
        """
        t, found = self._templates, []
        for i, v in self._chunks(ids, visible):
            fixed, cells, total = t.masses(*t.seen(i, v))
            size = max(ids.shape[1], self.length)
            out = torch.zeros(len(i), size, len(TAGS), dtype=torch.float64)
            out[:, self.length :, 0] = 1.0  # padding is no entity
            out[..., 0].index_add_(1, t.fixed_position, fixed)
            where = t.cell_position * len(TAGS) + t.cell_tag
            out.view(len(i), size * len(TAGS)).index_add_(1, where, cells.sum(-1))
            out[total == -math.inf] = 1 / len(TAGS)
            found.append(out[:, : ids.shape[1]])
        return torch.cat(found)

    def choices(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The template (B,) and the row of every draw of the grammar (B, D) behind documents.

        ``ids`` as for `log_prob`; rows of draws that belong to other templates mean nothing. Where
        two templates can write a text, the likelier one. Raises `ValueError` for an invalid text.
        """
        ids, t, found = self._whole(ids), self._templates, []
        for i, v in self._chunks(ids, torch.ones_like(ids, dtype=torch.bool)):
            joint, rows = t.joint(*t.seen(i, v))
            found.append((joint.amax(-1), joint.argmax(-1), rows.argmax(-1)))
        best, template, rows = (torch.cat(parts) for parts in zip(*found, strict=True))
        if (best == -math.inf).any():
            raise ValueError(f"row {int(best.argmin())} is no document of this grammar")
        return template, rows

    def groups(self, ids: Tensor, visible: Tensor) -> Tensor:
        """Which hidden words of a row depend on each other: int (B, T), equal numbers do.

        Words of one draw of the row's template have its number, words that the template fixes -1.
        While the shown words leave several templates open, all words have number 0.
        """
        t, found = self._templates, []
        for i, v in self._chunks(ids, visible):
            joint, _ = t.joint(*t.seen(i, v))
            share, template = joint.softmax(-1).max(-1)
            open_ = ~(share > 1 - 1e-9)  # also where nothing fits
            found.append(t.draw_at[template].masked_fill(open_[:, None], 0))
        return pad(torch.cat(found), (0, max(ids.shape[1] - self.length, 0)), value=-1)[
            :, : ids.shape[1]
        ]

    def questions(
        self, n: int, generator: torch.Generator, right: float = 0.5, none: float = 0.2
    ) -> list[Asked]:
        """``n`` questions with their documents and answers, by the side of the evidence.

        A share ``none`` has no answer in its document; of the others a share ``right`` has the
        deciding words to the right of the answer. See `mylib.questions.questions`.
        """
        return questions(self._templates, n, generator, right, none)

    # -- helpers ---------------------------------------------------------------------------------

    @property
    def _rows_at_once(self) -> int:
        return max(1, CHUNK // self._templates.size)

    def _log_evidence(self, ids: Tensor, visible: Tensor) -> Tensor:
        t = self._templates
        chunks = self._chunks(ids, visible)
        return torch.cat([t.joint(*t.seen(i, v))[0].logsumexp(-1) for i, v in chunks])

    def _whole(self, ids: Tensor) -> Tensor:
        """Rows (B, T) on the whole canvas: what has no <eos> in them is no document."""
        if ids.dim() != 2:
            raise ValueError(f"ids are int (B, T), got {tuple(ids.shape)}")
        return pad(ids, (0, max(self.length - ids.shape[1], 0)), value=PAD)

    def _check(self, ids: Tensor, visible: Tensor) -> None:
        if ids.dim() != 2 or visible.shape != ids.shape or visible.dtype != torch.bool:
            raise ValueError(
                "ids are int (B, T) and visible is bool of the same shape, got "
                f"{tuple(ids.shape)} and {visible.dtype} {tuple(visible.shape)}"
            )
        low, high = (int(ids.min()), int(ids.max())) if ids.numel() else (0, 0)
        if low < 0 or high >= self.vocab_size:
            raise ValueError(f"ids lie in 0..{self.vocab_size - 1}, found {low}..{high}")

    def _chunks(self, ids: Tensor, visible: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        self._check(ids, visible)
        size = self._rows_at_once
        return zip(ids.split(size), visible.split(size), strict=True)

    def _collect(self, scores: Iterator[tuple[Tensor, Tensor]], time: int) -> Posterior:
        t, found, totals = self._templates, [], []
        size = max(time, self.length)
        for score in scores:
            fixed, cells, total = t.masses(*score)
            out = torch.zeros(len(total), size * self.vocab_size, dtype=torch.float64)
            out.index_add_(1, t.fixed_position * self.vocab_size + t.fixed_word, fixed)
            where = t.cell_position[:, None] * self.vocab_size + t.cell_words
            out.index_add_(1, where.flatten(), cells.flatten(1))
            out = out.view(len(total), size, self.vocab_size)
            out[:, self.length :, PAD] = 1.0  # beyond the canvas there is only padding
            out[total == -math.inf] = 1 / self.vocab_size
            found.append(out[:, :time].log())
            totals.append(total)
        total = torch.cat(totals)
        return Posterior(torch.cat(found), total == -math.inf, total)
