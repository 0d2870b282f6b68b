"""One vector for a text: torn pages, three ways to pool, late interaction, and an exact oracle.

A page of the Gazette is torn before its last sentence. Given the sentence, which of N stories does
it belong to? The grammar knows: story i with probability p(sentence | story i), divided by the sum
of these over the N stories. That is the ceiling of any method, and its mean surprise is the floor
of the contrastive loss.

Shapes: Q sentences (queries), S stories, B rows, T tokens, C channels.

Source: the exam is the inverse cloze task of Lee, Chang and Toutanova, "Latent Retrieval for Weakly
Supervised Open Domain Question Answering" (2019); the loss is InfoNCE of van den Oord, Li and
Vinyals, "Representation Learning with Contrastive Predictive Coding" (2018); late interaction is
that of Khattab and Zaharia, "ColBERT" (2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .gazette import Gazette
from .heads import pooled
from .masks import Mask, bidirectional, padding
from .model import GPT, GPTConfig
from .objectives import Batch, Objective, Rows
from .objectives.base import in_full
from .templates import Templates
from .tokenizer import EOS, PAD, load_tokenizer

POOLS = ("first", "last", "mean", "late")


@dataclass(frozen=True, eq=False)
class Torn:
    """A sentence and the story it was torn from, each ``<bos> ... <eos>``.

    ``start``: the position that the sentence's <bos> is given. 0 says nothing; its place on the
    page says how long the story is.
    """

    sentence: Tensor
    story: Tensor
    start: int = 0

    def twice(self) -> Torn:
        """Both texts read twice over; <bos> is not repeated."""
        again = (torch.cat([text, text[1:]]) for text in (self.sentence, self.story))
        return Torn(*again, self.start)


class TornPages:
    """Pages of a `Gazette` torn before their last sentence; pages of one sentence are left out.

    ``leak``: "none"; "sentence" (the story still has it); "position" (the sentence keeps the
    positions that it had on the page). What a model is trained on: ``pages.sample(n, generator)``.
    """

    def __init__(
        self, gazette: Gazette, leak: Literal["none", "sentence", "position"] = "none"
    ) -> None:
        if leak not in ("none", "sentence", "position"):
            raise ValueError(f"leak is 'none', 'sentence' or 'position', not {leak!r}")
        self.gazette, self.leak = gazette, leak
        self.stop = load_tokenizer().encode_ordinary(".")[0]

    def sample(self, n: int, generator: torch.Generator) -> list[Torn]:
        """``n`` fresh torn pages, independent of each other."""
        found: list[Torn] = []
        while len(found) < n:
            for page in self.gazette.sample(n + 8, generator):
                if len(self.places(page)) > 1:
                    found.append(self.tear(page))
        return found[:n]

    def places(self, page: Tensor) -> list[int]:
        """Where the full stops of a page stand."""
        return (page == self.stop).nonzero()[:, 0].tolist()

    def tear(self, page: Tensor) -> Torn:
        """A page ``<bos> ... <eos>`` in two. Raises `ValueError` for a page of one sentence."""
        stops = self.places(page)
        if len(stops) < 2:
            raise ValueError(f"a page of {len(stops)} sentences has no story to be torn from")
        cut = stops[-2] + 1
        sentence = torch.cat([page[:1], page[cut:]])
        story = page if self.leak == "sentence" else torch.cat([page[:cut], page[-1:]])
        return Torn(sentence, story, cut - 1 if self.leak == "position" else 0)


class TornOracle:
    """What the grammar knows: log p(sentence | story), exactly.

    The words of a template are draws that are independent of each other. A draw that both parts
    use ties them together: sum over rows w_r [row fits the story] [row fits the sentence].
    """

    def __init__(self, gazette: Gazette) -> None:
        self.pages = TornPages(gazette)
        self.templates = Templates(gazette.grammar)
        t = self.templates
        stops = torch.zeros(len(t.prior), t.length, dtype=torch.bool)
        stops[t.fixed_template, t.fixed_position] = t.fixed_word == self.pages.stop
        places = [row.nonzero()[:, 0].tolist() for row in stops]
        # Where the last sentence of each template begins; -1: it has only one.
        self.cut = torch.tensor([place[-2] + 1 if len(place) > 1 else -1 for place in places])

    def log_probs(self, sentences: Sequence[Tensor], stories: Sequence[Tensor]) -> Tensor:
        """log p(sentence | story), nats, float64 (Q, S); -inf where they cannot be one page."""
        # In logarithms: a product over the draws of a long page is no float64.
        t, joint = self.templates, torch.zeros(len(sentences), len(stories), dtype=torch.float64)
        joint, alone = joint.log(), joint.new_zeros(len(stories)).log()
        for cut in self.cut[self.cut > 0].unique().tolist():
            story = _fits(t, *self._stories(stories, cut))
            sentence = _fits(t, *self._sentences(sentences, cut))
            for k in (self.cut == cut).nonzero()[:, 0].tolist():
                mine = t.draw_template == k
                a, b = (
                    rows[:, mine] & words[:, k, None, None] for words, rows in (story, sentence)
                )
                i, j = a.any(2).all(1).nonzero()[:, 0], b.any(2).all(1).nonzero()[:, 0]
                weights, a, b = t.draw_weights[mine], a[i].double(), b[j].double()
                one = t.prior[k].log() + (a * weights).sum(2).log().sum(1)
                both = torch.einsum("idr,jdr,dr->jid", a, b, weights).log().sum(2)
                place = j[:, None], i
                alone[i] = torch.logaddexp(alone[i], one)
                joint[place] = torch.logaddexp(joint[place], t.prior[k].log() + both)
        if alone.isneginf().any():
            number = int(alone.isneginf().nonzero()[0])
            raise ValueError(f"story {number} is none of this grammar's")
        return joint - alone

    def _stories(self, texts: Sequence[Tensor], cut: int) -> tuple[Tensor, Tensor]:
        """Canvases with the story shown before ``cut``; a story that does not end there is not."""
        canvas = torch.full((len(texts), self.templates.length), PAD)
        for row, text in enumerate(texts):
            # An <eos> where a word must stand fits nothing: stories of other lengths drop out.
            canvas[row, : min(len(text), cut)] = text[:cut]
            if len(text) - 1 != cut:
                canvas[row, 1] = EOS
        shown = torch.arange(self.templates.length) < cut
        return canvas, shown.expand_as(canvas)

    def _sentences(self, texts: Sequence[Tensor], cut: int) -> tuple[Tensor, Tensor]:
        canvas = torch.full((len(texts), self.templates.length), PAD)
        for row, text in enumerate(texts):
            words = text[1:]
            if len(words) > self.templates.length - cut:
                words = words[:1].new_full((1,), EOS)  # too long for this place: fits nothing
            canvas[row, cut : cut + len(words)] = words
        shown = torch.arange(self.templates.length) >= cut
        return canvas, shown.expand_as(canvas)


def _fits(t: Templates, canvas: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
    """What fits the words that are shown: the fixed words of each template, bool (B, K), and the
    rows of each draw, bool (B, D, R)."""
    fixed, cells = t.seen(canvas, shown)
    words = t.per_template(fixed, fixed.new_zeros(len(fixed), len(t.draw_weights))) == 0
    return words, (t.per_draw(cells) == 0) & (t.draw_weights > 0)


def late_interaction(
    queries: Tensor, query_valid: Tensor, stories: Tensor, story_valid: Tensor
) -> Tensor:
    """For each token of a query its most similar token of the story, added up: float (Q, S).

    queries (Q, T, C), stories (S, U, C), both of length 1 along C; valid bool (Q, T) and (S, U).
    Pads of a story are matched by nothing, pads of a query add nothing.

    >>> one, two = torch.eye(3)[[0, 1]][None], torch.eye(3)[[2, 1, 0]][None]
    >>> yes = torch.ones(1, 3, dtype=torch.bool)
    >>> float(late_interaction(one, yes[:, :2], two, yes))
    2.0
    """
    similar = torch.einsum("qtc,suc->qstu", queries, stories)
    best = similar.masked_fill(~story_valid[None, :, None], -torch.inf).amax(-1)  # (Q, S, T)
    return best.masked_fill(~query_valid[:, None], 0.0).sum(-1)


class Embedder(nn.Module):
    """A `GPT` whose states become vectors of length 1, and a scale for their similarities.

    ``pool``: "first", "last" or "mean" (`heads.pooled`): one vector a text, scored by its cosine.
    "late": one vector a token, scored by `late_interaction`. ``second``: texts have been read
    twice (`Torn.twice`), and only tokens of the second reading are pooled.
    """

    def __init__(self, base: GPT, pool: str = "mean", second: bool = False) -> None:
        super().__init__()
        if pool not in POOLS:
            raise ValueError(f"pool is one of {', '.join(POOLS)}, not {pool!r}")
        self.base, self.pool, self.second = base, pool, second
        # log of 1 / temperature. A sum over some ten tokens needs less of it than one cosine.
        self.scale = nn.Parameter(torch.tensor(0.7 if pool == "late" else 2.3))

    @property
    def config(self) -> GPTConfig:
        """The sizes of the base."""
        return self.base.config

    def forward(self, ids: Tensor, mask: Mask, positions: Tensor, valid: Tensor) -> Tensor:
        """Vectors (B, C) of texts ids (B, T); for "late" (B, T, C), zero at pads."""
        hidden = in_full(self.base.hidden(ids, mask, positions))
        used = self.used(valid)
        if self.pool == "late":
            return F.normalize(hidden, dim=-1).masked_fill(~used[..., None], 0.0)
        return F.normalize(pooled(hidden, used, self.pool), dim=-1)

    def used(self, valid: Tensor) -> Tensor:
        """The tokens that are pooled or matched, bool (B, T)."""
        if not self.second:
            return valid
        first = (valid.sum(1, keepdim=True) + 1) // 2  # <bos> and one reading
        return valid & (torch.arange(valid.shape[1], device=valid.device) >= first)

    def scores(self, batch: Any) -> Tensor:
        """Similarity of every sentence with every story of a `Matching` batch, float (N, N).

        In float32 or finer, whatever the base computes in: stories lie closer to each other than
        the steps of bfloat16, and would tie.
        """
        half, rest = divmod(len(batch.inputs), 2)
        if rest or len(batch.targets) != half:
            raise ValueError(
                f"{len(batch.targets)} sentences in a batch of {len(batch.inputs)} rows: a "
                "sentence is told apart from the stories of its batch, which cannot be sliced"
            )
        valid = batch.shown >= 0
        found = self(batch.inputs, batch.mask, batch.positions, valid)
        with torch.autocast(found.device.type, enabled=False):
            if self.pool != "late":
                return found[:half] @ found[half:].T
            used = self.used(valid)
            return late_interaction(found[:half], used[:half], found[half:], used[half:])

    def answers(self, batch: Any) -> Tensor:
        """Logits (N, stories) of the sentences of a batch: which story is theirs?"""
        return self.scores(batch) * self.scale.exp()


@dataclass(frozen=True, eq=False)
class _TornRows:
    """Rows of the sentences, then of their stories."""

    rows: Rows
    documents: Sequence[Torn]


class Matching(Objective):
    """Name the story of each sentence among those of its batch; the loss is InfoNCE, nats.

    Every other story of the batch is a wrong answer, also one with the same words: the floor of
    the loss counts that in (`floor`). ``positions`` of the sentences begin at `Torn.start`.
    """

    length = "given"
    layout = "padded"

    def __init__(self, mask: Mask = bidirectional) -> None:
        self.mask = mask

    def alone(self, documents: Sequence[Torn], length: int | None = None) -> _TornRows:
        texts = [page.sentence for page in documents] + [page.story for page in documents]
        if length is not None and (longest := max(map(len, texts))) > length:
            raise ValueError(f"a text of {longest} tokens does not fit rows of {length}")
        return _TornRows(Rows.padded(texts), documents)  # no score depends on the pads

    def passes(self, rows: _TornRows, generator: torch.Generator) -> tuple[Batch]:
        clean, n = rows.rows, len(rows.documents)
        asked = clean.valid & (clean.from_end == 0)
        asked[n:] = False
        start = torch.tensor([page.start for page in rows.documents] + [0] * n)
        place = torch.arange(clean.tokens.shape[1]).expand_as(clean.tokens)
        batch = Batch(
            inputs=clean.tokens,
            mask=self.mask & padding(clean.valid),
            positions=(clean.position + start[:, None]).masked_fill(~clean.valid, 0),
            asked=asked,
            targets=torch.arange(n),
            weights=torch.ones(n),
            denominator=float(n),
            source=torch.full((n,), -1),
            shown=place.masked_fill(~clean.valid, -1),
            copied=torch.zeros(n, dtype=torch.bool),
        )
        return (batch,)

    def batch(self, documents: Sequence[Torn]) -> Batch:
        """Documents as the batch that a model is given."""
        return self.passes(self.alone(documents), torch.Generator())[0]


def surprise(scores: Tensor) -> Tensor:
    """-log p of the right story, nats (Q,): scores (Q, S) are logits, the right story of sentence
    q is number q. With the oracle's log p(sentence | story) this is the floor of `Matching`."""
    return -scores.log_softmax(1).diagonal()


def found(scores: Tensor) -> Tensor:
    """Whether the right story has the greatest score, float64 (Q,); k that tie for it count 1 / k.

    Scores are compared to 1e-6: what is equal but for rounding is a tie.
    """
    right = scores.diagonal()[:, None]
    better, level = scores > right + 1e-6, (scores - right).abs() <= 1e-6
    level |= torch.isneginf(scores) & torch.isneginf(right)
    return (~better.any(1)).double() / level.sum(1).clamp(min=1)
