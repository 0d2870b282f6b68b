"""The arithmetic under the Gazette: all flat templates as index tensors, and one formula on them.

A document is one flat template (`mylib.grammar`) with one row drawn for each of its draws, written
on a *canvas*: ``<bos> w1 ... wn <eos> <pad> ...``. Given evidence e_i(v), the likelihood of what
is seen at position i if the word there is v,

    P(evidence | template) = prod over fixed words e_i(word)
                             * prod over draws  sum over rows weight * prod e_i(the row's word)

because the draws of one template are independent. Everything here is this formula in logarithms:
seen words have evidence one-hot, hidden words all ones.

Letters: K templates, F fixed words, D draws over all templates, N cells that refer to a draw,
R rows of the largest table, C length of the canvas.
"""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import pad

from . import tokenizer
from .grammar import TAGS, Grammar, Template
from .tokenizer import BOS, EOS, PAD


class Templates:
    """Index tensors of one grammar. Probabilities are float64, logarithms natural."""

    def __init__(self, grammar: Grammar) -> None:
        self.grammar = grammar
        self.encoding = tokenizer.load_tokenizer()
        self.vocab_size = self.encoding.n_vocab
        self.length = 2 + max(len(template.cells) for template in grammar.templates)
        fixed: list[tuple[int, int, int]] = []  # (template, position, id)
        draws: list[tuple[int, list[float]]] = []  # (template, weights of its merged rows)
        cells: list[tuple[int, int, list[int], int]] = []  # (draw, position, ids by row, tag)
        self.cell_names: list[tuple[str, str]] = []
        for k, template in enumerate(grammar.templates):
            n = len(template.cells)
            fixed += [(k, 0, BOS), (k, n + 1, EOS)]
            fixed += [(k, i, PAD) for i in range(n + 2, self.length)]
            uses: dict[str, list[tuple[int, str]]] = {}
            for i, cell in enumerate(template.cells, start=1):
                if cell.draw:
                    uses.setdefault(cell.draw, []).append((i, cell.column))
                else:
                    fixed.append((k, i, self.word_id(cell.word)))
            for draw, places in uses.items():
                table = grammar.tables[template.draws[draw]]
                rows, weights = _merged(template, table, [column for _, column in places])
                for c, (i, column) in enumerate(places):
                    ids = [self.word_id(" " + row[c]) for row in rows]
                    cells.append((len(draws), i, ids, TAGS.index(table.tags.get(column, "O"))))
                    self.cell_names.append((draw, column))
                draws.append((k, weights))
        most = max((len(weights) for _, weights in draws), default=1)
        self.prior = torch.tensor([t.prior for t in grammar.templates], dtype=torch.float64)
        self.lengths = torch.tensor([len(t.cells) for t in grammar.templates])
        self.fixed_template, self.fixed_position, self.fixed_word = torch.tensor(fixed).unbind(-1)
        self.draw_template = torch.tensor([k for k, _ in draws], dtype=torch.long)
        self.cell_draw = torch.tensor([cell[0] for cell in cells], dtype=torch.long)
        self.cell_position = torch.tensor([cell[1] for cell in cells], dtype=torch.long)
        self.cell_tag = torch.tensor([cell[3] for cell in cells], dtype=torch.long)
        # Rows that a draw does not have get weight 0; any word will do for them.
        self.draw_weights = torch.zeros(len(draws), most, dtype=torch.float64)
        self.cell_words = torch.full((len(cells), most), PAD)
        for d, (_, weights) in enumerate(draws):
            self.draw_weights[d, : len(weights)] = torch.tensor(weights, dtype=torch.float64)
        for n, (_, _, ids, _) in enumerate(cells):
            self.cell_words[n, : len(ids)] = torch.tensor(ids)

    @property
    def size(self) -> int:
        """Numbers that one row of a batch needs at a time."""
        return max(self.cell_words.numel(), len(self.fixed_word))

    @property
    def cell_template(self) -> Tensor:
        return self.draw_template[self.cell_draw]

    @cached_property
    def draw_at(self) -> Tensor:
        """The draw behind each word of each template, counted within it; -1: none. int (K, C)."""
        first = torch.full((len(self.prior),), len(self.draw_template)).scatter_reduce(
            0, self.draw_template, torch.arange(len(self.draw_template)), "amin"
        )
        found = torch.full((len(self.prior), self.length), -1)
        found[self.cell_template, self.cell_position] = self.cell_draw - first[self.cell_template]
        return found

    def word_id(self, unit: str) -> int:
        ids = self.encoding.encode_ordinary(unit)
        if len(ids) != 1:
            raise ValueError(
                f"{self.grammar.edition}: {unit.strip()!r} is not a word of the tokenizer; a new "
                "word needs new ranks (python -m mylib.experiments.ranks)"
            )
        return ids[0]

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Canvases (n, C), their templates (n,), and a row for every draw of the grammar (n, D)."""
        template = torch.multinomial(self.prior, n, replacement=True, generator=generator)
        rows = self.draw_rows(n, generator)
        return self.write(template, rows), template, rows

    def draw_rows(self, n: int, generator: torch.Generator) -> Tensor:
        """A row for every draw of the grammar, also those of other templates: int (n, D).

        Wasteful, simple, and one document never depends on another.
        """
        size = len(self.draw_weights)
        chance = torch.rand(n, size, dtype=torch.float64, generator=generator)
        # searchsorted counts the cumulative weights below each number, draw by draw.
        rows = torch.searchsorted(self.draw_weights.cumsum(-1), chance.T.contiguous()).T
        # Rounding can leave the last cumulative weight below 1: stay on rows that exist.
        return torch.minimum(rows, (self.draw_weights > 0).sum(-1) - 1)

    def write(self, template: Tensor, rows: Tensor) -> Tensor:
        """The canvases (n, C) of chosen templates (n,) and rows (n, D)."""
        ids = torch.full((len(self.prior), self.length), PAD)
        ids[self.fixed_template, self.fixed_position] = self.fixed_word
        ids = ids[template]
        mine = self.cell_template[None, :] == template[:, None]
        document, cell = mine.nonzero(as_tuple=True)
        row = rows[document, self.cell_draw[cell]]
        ids[document, self.cell_position[cell]] = self.cell_words[cell, row]
        return ids

    def possible(self) -> Tensor:
        """Which words each template can put at each position: bool (C, K, V)."""
        found = torch.zeros(self.length, len(self.prior), self.vocab_size, dtype=torch.bool)
        found[self.fixed_position, self.fixed_template, self.fixed_word] = True
        cell, row = (self.draw_weights[self.cell_draw] > 0).nonzero(as_tuple=True)
        words = self.cell_words[cell, row]
        found[self.cell_position[cell], self.cell_template[cell], words] = True
        return found

    # -- evidence: log e_i of the fixed words (B, F) and of the rows of the cells (B, N, R) -------

    def seen(self, ids: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Evidence 0 or -inf from shown words; ids and visible (B, T).

        Positions beyond T are hidden; what is shown beyond the canvas must be <pad>.
        """
        beyond = (visible & (ids != PAD))[:, self.length :].any(-1, keepdim=True)
        grow = (0, max(self.length - ids.shape[1], 0))
        ids, visible = pad(ids, grow)[:, : self.length], pad(visible, grow)[:, : self.length]
        here = ids[:, self.fixed_position]
        fixed = (visible[:, self.fixed_position] & (here != self.fixed_word)) | beyond
        here = ids[:, self.cell_position, None]
        cells = visible[:, self.cell_position, None] & (here != self.cell_words)
        return _log_of_not(fixed), _log_of_not(cells)

    def weighed(self, evidence: Tensor) -> tuple[Tensor, Tensor]:
        """Evidence from any likelihoods (B, T, V), T at most C; positions beyond T are hidden."""
        log_e = pad(evidence.double().log(), (0, 0, 0, self.length - evidence.shape[1]))
        fixed = log_e[:, self.fixed_position, self.fixed_word]
        return fixed, log_e[:, self.cell_position[:, None], self.cell_words]

    # -- the formula -----------------------------------------------------------------------------

    def per_draw(self, cells: Tensor) -> Tensor:
        """Sum the cells of each draw: (B, N, R) -> (B, D, R)."""
        empty = cells.new_zeros(len(cells), *self.draw_weights.shape)
        return empty.index_add_(1, self.cell_draw, cells)

    def per_template(self, fixed: Tensor, draws: Tensor) -> Tensor:
        """Sum fixed words and draws of each template: (B, F), (B, D) -> (B, K)."""
        empty = fixed.new_zeros(len(fixed), len(self.prior))
        empty.index_add_(1, self.fixed_template, fixed)
        return empty.index_add_(1, self.draw_template, draws)

    def joint(self, fixed: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
        """log p(template, evidence) (B, K), and log p(row, its evidence) (B, D, R)."""
        rows = self.draw_weights.log() + self.per_draw(cells)
        return self.prior.log() + self.per_template(fixed, rows.logsumexp(-1)), rows

    def masses(self, fixed: Tensor, cells: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Posterior of each fixed word (B, F) and row of each cell (B, N, R); log evidence (B,).

        All zero where no document fits.
        """
        joint, rows = self.joint(fixed, cells)
        total = joint.logsumexp(-1)
        template = (joint - total[:, None]).exp().nan_to_num(0.0)
        row = (rows - rows.logsumexp(-1, keepdim=True)).exp().nan_to_num(0.0)
        row = row * template[:, self.draw_template, None]
        return template[:, self.fixed_template], row[:, self.cell_draw], total


def _merged(template: Template, table, columns: list[str]):
    """Rows that agree on the columns in use are one row: one text, one way to write it."""
    picks = [table.columns.index(column) for column in columns]
    merged: dict[tuple[str, ...], float] = {}
    for row, weight in zip(table.rows, table.weights, strict=True):
        key = tuple(row[pick] for pick in picks)
        merged[key] = merged.get(key, 0.0) + weight
    return list(merged), list(merged.values())


def _log_of_not(wrong: Tensor) -> Tensor:
    """0 where right, -inf where wrong, float64."""
    return torch.zeros(wrong.shape, dtype=torch.float64).masked_fill_(wrong, -math.inf)
