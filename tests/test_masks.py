"""Every mask against a loop that says in words who may look."""

import warnings

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch.nn.attention.flex_attention import create_mask, flex_attention

from mylib.masks import (
    Mask,
    anticausal,
    as_mask,
    bidirectional,
    block_causal,
    block_mask,
    causal,
    causal_head,
    dense,
    documents,
    flipped,
    from_dense,
    hops,
    padding,
    prefix_lm,
    reach,
    sliding_window,
)

T, B = 7, 3
VALID = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0, 0], [0, 1, 0, 1, 1, 0, 0]]).bool()
PREFIX = torch.tensor([0, 3, 7])
DOCUMENT = torch.tensor([[0, 0, 1, 1, 2, -1, -1], [0] * 7, [3, -1, 3, 4, 4, 4, -1]])
LENGTH = torch.tensor([7, 3, 1])
MATRIX = torch.rand(B, T, T, generator=torch.Generator().manual_seed(0)) < 0.5


def in_block(q, k, size):
    """Is k in q's block or in one before it?"""
    block_end = size
    while block_end <= q:
        block_end += size
    return k < block_end


def start(b, i):
    """The first index of the document that i belongs to."""
    return DOCUMENT[b].tolist().index(DOCUMENT[b, i])


# name: (mask, whether query q of row b may look at key k)
SPECIFIED = {
    "causal": (causal, lambda b, q, k: k in range(q + 1)),
    "anticausal": (anticausal, lambda b, q, k: k in range(q, T)),
    "bidirectional": (bidirectional, lambda b, q, k: True),
    "padding": (padding(VALID), lambda b, q, k: VALID[b].tolist()[k]),
    "window 2 1": (sliding_window(2, 1), lambda b, q, k: k in (q - 2, q - 1, q, q + 1)),
    "window 0 0": (sliding_window(0, 0), lambda b, q, k: k == q),
    "window 0 3": (sliding_window(0, 3), lambda b, q, k: k in (q, q + 1, q + 2, q + 3)),
    "hops": (hops(-1, 0, 2), lambda b, q, k: k in (q - 1, q, q + 2)),
    "all but the next": (~hops(1), lambda b, q, k: k != q + 1),
    "prefix 3": (prefix_lm(3), lambda b, q, k: k in range(3) or k in range(q + 1)),
    "prefix by row": (prefix_lm(PREFIX), lambda b, q, k: k in range(max(PREFIX[b], q + 1))),
    "documents": (
        documents(DOCUMENT),
        lambda b, q, k: DOCUMENT[b, k] != -1 and DOCUMENT[b, q] == DOCUMENT[b, k],
    ),
    "prefix by token": (prefix_lm(VALID), lambda b, q, k: VALID[b, k] or k <= q),
    "documents, each with a prefix": (
        documents(DOCUMENT, prefix_lm(1) | sliding_window(0, 0)),
        lambda b, q, k: (
            DOCUMENT[b, k] != -1
            and DOCUMENT[b, q] == DOCUMENT[b, k]
            and (k <= q or DOCUMENT[b, k] not in DOCUMENT[b, :k])
        ),
    ),
    "documents, each in blocks": (
        documents(DOCUMENT, block_causal(2)),
        lambda b, q, k: (
            DOCUMENT[b, k] != -1
            and DOCUMENT[b, q] == DOCUMENT[b, k]
            and in_block(q - start(b, q), k - start(b, k), 2)
        ),
    ),
    "documents, one by row": (
        documents(DOCUMENT, padding(VALID)),
        lambda b, q, k: (
            DOCUMENT[b, k] != -1 and DOCUMENT[b, q] == DOCUMENT[b, k] and VALID[b, k - start(b, k)]
        ),
    ),
    "flipped queries": (
        flipped(causal, T, keys=False),
        lambda b, q, k: k in range(T - q),
    ),
    "flipped keys": (flipped(causal, T, queries=False), lambda b, q, k: k in range(T)[-1 - q :]),
    "flipped both, by row": (
        flipped(causal, LENGTH),
        lambda b, q, k: (
            k in range(q, LENGTH[b])
            if q < LENGTH[b] and k < LENGTH[b]
            else (k < LENGTH[b] or (q >= LENGTH[b] and k <= q))
        ),
    ),
    "flipped with rows of its own": (
        flipped(padding(VALID), T, queries=False),
        lambda b, q, k: VALID[b, T - 1 - k],
    ),
    "blocks of 3": (block_causal(3), lambda b, q, k: in_block(q, k, 3)),
    "causal head 3": (causal_head(3), lambda b, q, k: not (q < 3 and k < 3 and k > q)),
    "matrix": (from_dense(MATRIX[0]), lambda b, q, k: MATRIX[0].tolist()[q][k]),
    "matrices": (from_dense(MATRIX), lambda b, q, k: MATRIX.tolist()[b][q][k]),
    "and": (causal & padding(VALID), lambda b, q, k: k <= q and VALID[b, k]),
    "or": (
        documents(DOCUMENT) | prefix_lm(2),
        lambda b, q, k: (
            k < 2 or k <= q or (DOCUMENT[b, k] >= 0 and DOCUMENT[b, q] == DOCUMENT[b, k])
        ),
    ),
    "not": (~prefix_lm(PREFIX), lambda b, q, k: not (k < PREFIX[b] or k <= q)),
    "two sets of rows": (
        padding(VALID) & ~prefix_lm(PREFIX) & documents(DOCUMENT),
        lambda b, q, k: (
            VALID[b, k]
            and k >= PREFIX[b]
            and k > q
            and DOCUMENT[b, k] >= 0
            and DOCUMENT[b, q] == DOCUMENT[b, k]
        ),
    ),
    "with a plain function": (
        causal & (lambda b, h, q, k: k != 2),
        lambda b, q, k: k <= q and k != 2,
    ),
}
each = pytest.mark.parametrize("name", SPECIFIED)


def slow(rule, queries=range(T), keys=range(T), batch=B):
    """The predicate, asked pair by pair: (B, 1, Q, K)."""
    return torch.tensor(
        [[[[bool(rule(b, q, k)) for k in keys] for q in queries]] for b in range(batch)]
    )


def test_hops_need_a_step():
    with pytest.raises(ValueError, match="at least one step"):
        hops()


@each
def test_mask_is_its_specification(name):
    mask, rule = SPECIFIED[name]
    assert torch.equal(dense(mask, T, batch=B), slow(rule))


@each
def test_dense_with_a_cache_offset(name):
    mask, rule = SPECIFIED[name]
    queries, keys = torch.tensor([4, 5, 6]), torch.tensor([6, 0, 3, 4, 5])
    found = dense(mask, queries, keys, batch=B, heads=2)
    assert found.shape == (B, 2, 3, 5)
    assert torch.equal(found, slow(rule, queries.tolist(), keys.tolist()).expand(-1, 2, -1, -1))
    assert torch.equal(dense(mask, 3, T, batch=B), slow(rule, range(3)))


@each
def test_dense_is_flex_attentions_create_mask(name):
    mask, _ = SPECIFIED[name]
    assert torch.equal(
        dense(mask, T, batch=B, heads=2), create_mask(mask, B, 2, T, T, device="cpu")
    )


@each
def test_attention_with_a_block_mask_is_attention_with_dense(name):
    mask, _ = SPECIFIED[name]
    chance = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, B, 2, T, 16, generator=chance)
    blocks = block_mask(mask, T, block=4, batch=B)
    whole = dense(mask, T, batch=B)
    skipped = torch.nn.functional.pad(whole, (0, 1, 0, 1)).unflatten(3, (2, 4)).unflatten(2, (2, 4))
    assert torch.equal(blocks.to_dense().bool().expand(B, 1, 2, 2), skipped.any(5).any(3))
    with warnings.catch_warnings():  # it says that it would be faster compiled
        warnings.simplefilter("ignore")
        found = flex_attention(q, k, v, block_mask=blocks)
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=whole)
    looks = whole.any(-1, keepdim=True)  # a blind query gets zeros there, and whatever here
    torch.testing.assert_close(found * looks, wanted * looks, atol=1e-5, rtol=1e-5)


def test_a_block_mask_is_refused_where_dense_is():
    for build in (dense, block_mask):
        with pytest.raises(ValueError, match=r"prefix_lm\(9\).* rows of 9 tokens or more, not 5"):
            build(prefix_lm(9), 5)
        with pytest.raises(ValueError, match="for a batch of 3 rows, not 2"):
            build(padding(VALID), T, batch=2)
    assert block_mask(causal, 512).sparsity() == 37.5  # 6 of 16 blocks
    assert block_mask(padding(VALID), T).shape == (3, 1, 7, 7)
    assert block_mask(causal, T, 2 * T, batch=5, heads=2).shape == (5, 2, 7, 14)


def test_a_prefix_reaches_into_a_row_not_beyond():
    prefix = torch.tensor([2, 6])
    for mask in (prefix_lm(6), prefix_lm(prefix), ~prefix_lm(6), causal & prefix_lm(6)):
        assert dense(mask, 6).shape[2:] == (6, 6)
        with pytest.raises(ValueError, match="rows of 6 tokens or more, not 5"):
            dense(mask, 5)
        with pytest.raises(ValueError, match="rows of 6 tokens or more, not 5"):
            dense(mask.to("cpu"), torch.tensor([4]), torch.tensor([0, 4]))
        # One new token of a longer row, as a cache asks.
        assert dense(mask, torch.tensor([6]), 7).shape[2:] == (1, 7)
    with pytest.raises(ValueError, match="rows of 6 tokens or more, not 5"):
        dense(prefix_lm(prefix).take(slice(1, 2)), 5)
    with pytest.raises(ValueError, match="rows of 4 tokens or more, not 3"):
        documents(torch.tensor([[0, 0, 0, 0, 1, 1, 1]]), prefix_lm(4))
    with pytest.raises(ValueError, match="rows of 5 tokens or more, not 4"):
        dense(flipped(causal, 5), 4)


@pytest.mark.parametrize("length", [1, 2, 5, 8])
def test_flips(length):
    whole = dense(causal, length)
    assert torch.equal(dense(flipped(causal, length), length), whole.mT)
    for queries, keys, axes in ((1, 0, (-2,)), (0, 1, (-1,)), (0, 0, ())):
        found = dense(flipped(causal, length, bool(queries), bool(keys)), length)
        assert torch.equal(found, whole.flip(axes) if axes else whole)
    # Flipped once, everybody sees everybody in two layers: by way of the reflection.
    once = dense(flipped(causal, length, keys=False), length)
    assert reach(once, 2).all()
    assert reach(once, 1).all() == (length < 3)


@each
def test_batch_known_or_free(name):
    mask, rule = SPECIFIED[name]
    by_row = not torch.equal(slow(rule)[:1].expand(B, -1, -1, -1), slow(rule))
    assert mask.batch == (B if by_row else None)
    assert len(dense(mask, T)) == (B if by_row else 1)
    if by_row:
        for wrong in (1, 2, 4):
            with pytest.raises(ValueError, match=f"for a batch of 3 rows, not {wrong}"):
                dense(mask, T, batch=wrong)


@each
def test_take_and_to(name):
    mask, _ = SPECIFIED[name]
    whole = dense(mask, T, batch=B)
    index = torch.tensor([2, 0])
    for part, rows in ((mask.take(index), whole[index]), (mask.take(slice(1, 3)), whole[1:3])):
        assert part.batch == (None if mask.batch is None else 2)
        assert torch.equal(dense(part, T, batch=2), rows)
    moved = mask.to("cpu")
    assert moved.batch == mask.batch and torch.equal(dense(moved, T, batch=B), whole)
    assert all(rows.device.type == "meta" for rows in mask.to("meta").rows)


@pytest.mark.parametrize("length", [1, 2, 5, 9])
def test_one_mask_as_a_case_of_another(length):
    def same(left, right):
        return torch.equal(dense(left, length), dense(right, length))

    assert same(prefix_lm(0), causal)
    assert same(prefix_lm(length), bidirectional)
    assert same(prefix_lm(torch.tensor([0])), causal)
    assert same(sliding_window(length, 0), causal)
    assert same(sliding_window(0, length), anticausal)
    assert same(block_causal(1), causal)
    assert same(block_causal(length), bidirectional)
    assert same(causal_head(0), bidirectional)
    assert same(causal_head(length), causal)
    assert same(~~causal, causal) and same(causal & anticausal, sliding_window(0, 0))
    assert torch.equal(dense(anticausal, length), dense(causal, length).mT)
    assert torch.equal(dense(anticausal, length), dense(causal, length).flip(-1, -2))


def test_names():
    assert repr(causal & ~padding(VALID)) == "Mask((causal & ~padding))"
    assert repr(sliding_window(2, 1) | prefix_lm(4)) == "Mask((window(2, 1) | prefix_lm(4)))"
    assert as_mask(causal) is causal

    def odd_keys(b, h, q, k):
        return (k % 2 == 1) & (q >= 0)

    assert repr(as_mask(odd_keys)) == "Mask(odd_keys)"
    assert dense(odd_keys, 2, 4).tolist() == [[[[False, True, False, True]] * 2]]


# -- reach ----------------------------------------------------------------------------------------


def paths(stack, end):
    """Inputs from which a path leads up to output `end`: depth first, one layer at a time."""
    if not stack:
        return {end}
    *below, top = stack
    found = paths(below, end)
    for key in range(len(top)):
        if top[end][key]:
            found |= paths(below, key)
    return found


@st.composite
def stacks(draw):
    time = draw(st.integers(1, 5))
    row = st.lists(st.booleans(), min_size=time, max_size=time)
    matrix = st.lists(row, min_size=time, max_size=time)
    return draw(st.lists(matrix, min_size=1, max_size=4))


@given(stacks())
@settings(max_examples=100, deadline=None)
def test_reach_of_a_mixed_stack_is_what_paths_reach(stack):
    found = reach([torch.tensor(matrix) for matrix in stack])
    for i in range(len(found)):
        assert {j for j in range(len(found)) if found[i, j]} == paths(stack, i)


@given(stacks(), st.integers(0, 4))
@settings(max_examples=60, deadline=None)
def test_reach_of_one_mask(stack, layers):
    found = reach(torch.tensor(stack[0]), layers)
    assert torch.equal(
        found,
        torch.tensor(stack[0]).new_tensor(
            [
                [j in paths(stack[:1] * layers, i) for j in range(len(found))]
                for i in range(len(found))
            ]
        ),
    )


def test_reach_of_rows_of_a_batch():
    visible = dense(causal & padding(VALID), T)
    found = reach(visible, 3)
    assert found.shape == visible.shape
    for b in range(B):
        assert torch.equal(found[b, 0], reach(visible[b, 0], 3))


def test_the_order_of_layers_counts():
    first, then = torch.zeros(2, 3, 3, dtype=torch.bool)
    first[1, 2] = then[0, 1] = True  # 2 -> 1 below, 1 -> 0 above: 2 arrives at 0
    assert reach([first, then])[0, 2] and not reach([then, first])[0, 2]


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_causal_head_leaks_at_two_layers(n):
    visible = dense(causal_head(n), 6)[0, 0]
    future = torch.ones(6, 6).triu(1).bool()[:n, :n]
    assert not (reach(visible, 1)[:n, :n] & future).any()
    assert (reach(visible, 2)[:n, :n] & future).equal(future)


@pytest.mark.parametrize("layers", [1, 2, 7])
def test_prefix_lm_never_leaks(layers):
    for n in range(6):
        visible = dense(prefix_lm(n), 6)[0, 0]
        assert torch.equal(reach(visible, layers), visible)


# -- errors ---------------------------------------------------------------------------------------

WRONG = {
    "not a function": (lambda: as_mask(torch.ones(3, 3)), TypeError, "not Tensor; .*from_dense"),
    "joined sizes": (lambda: padding(VALID) & prefix_lm(PREFIX[:2]), ValueError, r"\[2, 3\]"),
    "joined nonsense": (lambda: causal & 3, TypeError, "not int"),
    "padding of numbers": (lambda: padding(VALID.long()), TypeError, "bool tensor.*int64"),
    "padding of a row": (lambda: padding(VALID[0]), ValueError, r"\(B, T\), got shape \(7,\)"),
    "documents of a row": (
        lambda: documents(DOCUMENT[0]),
        ValueError,
        r"\(B, T\), got shape \(7,\)",
    ),
    "documents out of order": (
        lambda: documents(torch.tensor([[0, 0, 1], [0, 1, 0]])),
        ValueError,
        r"row 1 go back: \[0, 1, 0\]",
    ),
    "a document that goes on": (
        lambda: documents(torch.tensor([[2, 2, -1, 1, 1]])),
        ValueError,
        "numbered in their order",
    ),
    "flipped nothing": (lambda: flipped(causal, 0), ValueError, "1 or more; got 0"),
    "flipped half": (lambda: flipped(causal, 2.5), ValueError, "whole number"),
    "documents of floats": (lambda: documents(DOCUMENT / 2), TypeError, "integers.*float"),
    "window": (lambda: sliding_window(-1, 2), ValueError, "left=-1 right=2"),
    "window right": (lambda: sliding_window(1, -2), ValueError, "left=1 right=-2"),
    "prefix": (lambda: prefix_lm(-1), ValueError, "0 or more; got -1"),
    "a prefix": (lambda: prefix_lm(torch.tensor([2, -1])), ValueError, "0 or more"),
    "half a prefix": (lambda: prefix_lm(torch.tensor([2.5])), ValueError, "whole number"),
    "prefix (B, T)": (lambda: prefix_lm(DOCUMENT + 1), ValueError, r"\(B,\), got shape \(3, 7\)"),
    "block": (lambda: block_causal(0), ValueError, "at least 1 token, got 0"),
    "head": (lambda: causal_head(-1), ValueError, "got -1"),
    "matrix of floats": (lambda: from_dense(torch.eye(3)), ValueError, "float32"),
    "matrix shape": (lambda: from_dense(VALID[0]), ValueError, r"\(7,\)"),
    "indices (1, T)": (lambda: dense(causal, torch.ones(1, 3).long()), ValueError, "1-D"),
    "negative index": (
        lambda: dense(padding(VALID), 2, torch.tensor([-1, 0])),
        ValueError,
        "0 or more",
    ),
    "negative length": (lambda: dense(causal, -2), ValueError, "got -2"),
    "beyond its tensors": (
        lambda: dense(padding(VALID), T + 1),
        ValueError,
        r"\(3, 7\).*8 queries",
    ),
    "key beyond": (lambda: dense(padding(VALID), 1, torch.tensor([7])), ValueError, r"\(3, 7\)"),
    "no bool": (lambda: dense(lambda b, h, q, k: q - k, 3), TypeError, "int64; a mask answers"),
    "no tensor": (
        lambda: dense(lambda b, h, q, k: True, 3),
        TypeError,
        "with bool; a mask answers",
    ),
    "reach without layers": (lambda: reach(MATRIX[0]), ValueError, "number of layers.*None"),
    "reach of -1": (lambda: reach(MATRIX[0], -1), ValueError, "-1"),
    "reach counts": (lambda: reach([MATRIX[0]] * 2, 3), ValueError, "2 masks were given for 3"),
    "reach of none": (lambda: reach([]), ValueError, "at least one"),
    "reach oblong": (lambda: reach(MATRIX[0, :3], 1), ValueError, r"\(3, 7\)"),
    "reach of floats": (lambda: reach(MATRIX[0].float(), 1), ValueError, "float32"),
    "reach of two sizes": (lambda: reach([MATRIX[0], MATRIX[0, :3, :3]]), ValueError, r"\(3, 3\)"),
    "reach mixed dtypes": (lambda: reach([MATRIX[0], MATRIX[0].int()]), ValueError, "int32"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_use(name):
    action, kind, says = WRONG[name]
    with pytest.raises(kind, match=says):
        action()


def test_a_mask_of_one_row_is_not_stretched():
    mask = Mask(lambda b, h, q, k, rows: rows[b, k] & (q >= 0), "one row", VALID[:1])
    with pytest.raises(ValueError, match="batch of 1 rows, not 3"):
        dense(mask, T, batch=3)
