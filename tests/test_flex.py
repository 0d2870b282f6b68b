"""FlexAttention under the course's masks is SDPA under the same ones."""

import json

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from mylib import masks
from mylib.experiments import flex
from mylib.masks import block_mask, causal, dense, documents, sliding_window

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="FlexAttention trains on a GPU")


def test_every_builder_is_among_the_masks():
    named = {name.split(",")[0] for name in flex.all_masks(2, 64)}
    helpers = {"Mask", "Rule", "as_mask", "block_mask", "dense", "reach"}
    assert set(masks.__all__) - helpers <= named


def test_the_same_output_on_a_cpu(capsys):
    flex.main(["--smoke"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(flex.all_masks(2, 64))
    assert all(float(line.rsplit(": ", 1)[1]) < 1e-5 for line in lines)


@pytest.mark.parametrize("name", ["causal", "window", "documents", "nobody"])
def test_sparsity_is_the_share_of_empty_blocks_at_any_length(name):
    for tokens in range(1, 301):
        mask = {
            "causal": causal,
            "window": sliding_window(3, 0),
            "documents": documents(torch.arange(tokens)[None] // 40),
            "nobody": ~(causal | ~causal),
        }[name]
        visible = dense(mask, tokens)
        assert block_mask(mask, tokens, block=16).sparsity() == pytest.approx(empty(visible, 16))
        assert 0 <= block_mask(mask, tokens).sparsity() <= 100


def empty(visible, block):
    """The share of blocks in which nobody may look, in per cent; visible: (B, H, T, T)."""
    rows = [
        torch.stack([part.flatten(2).any(2) for part in band.split(block, 3)], 2)
        for band in visible.split(block, 2)
    ]
    return 100 * float((~torch.stack(rows, 2)).float().mean())


def test_the_examples_of_the_reader():
    for tokens in (6, 200):
        assert block_mask(causal, tokens).sparsity() == pytest.approx(
            empty(dense(causal, tokens), 128)
        )
    assert block_mask(causal, 200).sparsity() == 25 and "25.00%" in str(block_mask(causal, 200))
    heads = block_mask(causal, 40, 70, batch=2, heads=3, block=16)  # 3 × 5 blocks, 6 are looked at
    assert heads.sparsity() == pytest.approx(60)


def test_another_mask_would_be_noticed(monkeypatch):
    monkeypatch.setattr(flex, "flex_attention", lambda q, k, v, block_mask: flex_attention(q, k, v))
    with pytest.raises(ValueError, match="causal: FlexAttention is off by"):
        flex.smoke()


def test_queries_that_see_nobody_get_zeros():
    q, k, v, _ = flex.inputs(1, 8, "cpu")
    visible = torch.eye(8, dtype=torch.bool).expand(1, 1, 8, 8).clone()
    visible[..., 3, :] = False
    out = flex.sdpa(q, k, v, visible)
    assert (out[:, :, 3] == 0).all()
    torch.testing.assert_close(out[:, :, 4], v[:, :, 4])


def test_gradients_are_those_of_autograd():
    given = flex.inputs(1, 6, "cpu")
    visible = torch.ones(1, 1, 6, 6, dtype=torch.bool)
    out, *gradients = flex.step_of(flex.sdpa, visible, given)()
    assert flex.apart([out, *gradients], [out, *gradients]) == [0.0] * 4
    assert torch.allclose(
        gradients[2].sum(2), given[3].sum(2), atol=1e-4
    )  # rows of softmax add to 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_nothing_is_written(tmp_path):
    with pytest.raises(SystemExit, match="no CUDA device"):
        flex.main(["--out", str(tmp_path / "flex.json")])
    assert not list(tmp_path.iterdir())


@gpu
def test_forward_and_backward_on_a_gpu(tmp_path):
    path = tmp_path / "flex.json"
    flex.main(["--out", str(path), "--tokens", "1024", "--repeats", "2"])
    runs = json.loads(path.read_text())["runs"]
    assert len(runs) == len(flex.all_masks(2, 1024))
    assert all(max(run["errors"]["flex"].values()) < 1e-4 for run in runs)
