"""What is handed over in memory: canvases, masks, rows of documents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import tiny
import torch

from mylib import masks
from mylib.gazette import Gazette
from mylib.masks import Mask, dense
from mylib.objectives import Rows
from mylib.sampling import ORDERS, Ancestral, Certain, Passes, write
from mylib.tokenizer import MASK

GPT = tiny.gpt()  # 16 tokens, 16 positions
GAZETTE = Gazette.load()
DTYPES = (torch.int64, torch.int64, torch.int32, torch.int16, torch.uint8, torch.uint16, torch.bool)
DTYPES += (torch.float32, torch.float16, torch.complex64)
IDS = (MASK, MASK, MASK, 0, 1, 2, 5, 7, 15, 16, -1, 505, 506, 60_000, 2**31, -(2**62))
NO_TENSORS = (None, [], [[MASK, 7]], "[MASK]", 3, 0.5)


@st.composite
def tensors(draw, values=IDS, largest=3):
    """Tensors of any type and shape, some of them as they should be; and other things."""
    if draw(st.integers(0, 15)) == 0:
        return draw(st.sampled_from(NO_TENSORS))
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.sampled_from((0, 1, 2, 2, 3, 17)), max_size=largest))
    size = torch.Size(shape).numel()
    drawn = draw(st.lists(st.sampled_from(values), min_size=size, max_size=size))
    return torch.tensor(drawn, dtype=torch.float64).to(dtype).view(shape)


def number(*values) -> st.SearchStrategy:
    """Mostly one of the values, else a number that may make no sense."""
    bad = st.sampled_from((0, -1, 1, 10**9, 0.5, float("nan"), True))
    return st.one_of(*[st.sampled_from(values)] * 5, bad)


# -- canvases ----------------------------------------------------------------------------------

BUDGETS = (1, 2, Passes(2), Ancestral(3), Certain(0.5)) * 4
BUDGETS += (0, -1, 0.5, float("nan"), "all", None)
CANVAS = st.fixed_dictionaries(
    {
        "canvas": st.one_of(
            tensors(),
            st.lists(st.sampled_from((MASK, 7, 8)), min_size=1, max_size=6).map(
                lambda row: torch.tensor([row, row])
            ),
        ),
        "model": st.sampled_from((GPT, GAZETTE.denoiser)),
        "order": st.sampled_from((*ORDERS * 3, "none", None)),
        "budget": st.sampled_from(BUDGETS),
        "block": number(None, 2),
        "max_passes": number(None, 2, 3),
        "leave": st.sampled_from((False, False, True)),
        "forbid_mask": st.sampled_from((True, True, False)),
        "temperature": number(1.0, 0.0, float("inf")),
        "top_k": number(None, 3),
        "top_p": number(None, 0.9),
        "mask_token": st.sampled_from((*[MASK] * 9, -1, 16, 506)),
    },
)


def canvas(how: dict[str, Any]) -> None:
    how = dict(how)
    if how["max_passes"] == 10**9:
        how["max_passes"] = 3  # allowed: who forbids nothing may wait
    trace = write(**how, generator=torch.Generator().manual_seed(0))
    given, token = how["canvas"], how["mask_token"]
    assert trace.ids.shape == given.shape and (trace.ids == given)[given != token].all()
    if not how["leave"]:
        assert not (trace.ids == token).any()


# -- masks -------------------------------------------------------------------------------------

BUILDERS: tuple[Callable, ...] = (
    masks.padding,
    masks.documents,
    masks.prefix_lm,
    masks.block_causal,
    masks.causal_head,
    masks.from_dense,
    lambda x: masks.sliding_window(x, 1),
    lambda x: masks.flipped(masks.causal, x),
    lambda x: masks.hops(x),
    lambda x: Mask(lambda b, h, q, k: x, "answers whatever it was given"),
    lambda x: Mask(lambda b, h, q, k, rows: rows[b, k], "made from rows", x),
    lambda x: x,
)
INDICES = st.one_of(number(3, 5), tensors((0, 1, 2, 3, -1), 2))
MASKS = st.tuples(
    st.sampled_from(BUILDERS),
    st.one_of(tensors((0, 1, 2, -1)), number(2)),
    INDICES,
    st.one_of(st.none(), INDICES),
    number(None, None, 2, 3),
    number(1, 1, 2),
)


def mask(how: tuple) -> None:
    build, given, queries, keys, batch, heads = how
    # So many tokens would be asked for, not read.
    small = (3 if isinstance(x, int) and x > 9 else x for x in (queries, keys, batch, heads))
    queries, keys, batch, heads = small
    found = dense(build(given), queries, keys, batch, heads)
    keys = queries if keys is None else keys
    counts = [len(x) if isinstance(x, torch.Tensor) else x for x in (queries, keys)]
    assert found.dtype == torch.bool and list(found.shape[1:]) == [heads, *counts]


# -- rows of documents -------------------------------------------------------------------------

TEXTS = st.one_of(
    st.lists(tensors(largest=2), max_size=4),
    st.lists(st.lists(st.sampled_from(IDS), max_size=5).map(torch.tensor), max_size=4),
)
ROWS = st.tuples(
    st.sampled_from(("padded", "packed", "rows", "rows")),
    st.one_of(TEXTS, st.sampled_from(NO_TENSORS)),
    number(None, 5, 8).map(lambda length: 99 if length == 10**9 else length),
    st.lists(tensors((0, 1, -1, 2, 7), 2), min_size=3, max_size=3),
    st.lists(
        st.lists(st.sampled_from((0, 1, 2, -1, -2, 9)), min_size=6, max_size=6),
        min_size=3,
        max_size=3,
    ),
)


def rows(how: tuple) -> None:
    kind, texts, length, any_three, three = how
    if kind == "rows":
        three = any_three if any_three[0] is None else [torch.tensor(t).view(2, 3) for t in three]
        made = Rows(*three)
    else:
        made = getattr(Rows, kind)(texts, length)
        assert int(made.valid.sum()) == sum(map(len, texts))
        assert made.tokens.shape[1] == (max(map(len, texts)) if length is None else length)
    assert made.from_end.shape == made.tokens.shape and made.is_packed in (True, False)
    if not made.is_packed:
        assert made.canvas.valid.all()
