"""The network under every mask, with and without the cache, against attention written by hand."""

import math

import pytest
import tiny
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import MASKS, VALID
from torch import nn

from mylib import masks
from mylib.convert.gpt2 import load_gpt2
from mylib.masks import Mask, dense
from mylib.model import GPT, Attention, Cache, GPTConfig
from mylib.muon import Muon, orthogonalised

BLIND = masks.from_dense(torch.tensor([[1, 0, 0], [0, 0, 0], [1, 0, 1]]).bool())


def attention_by_hand(q, k, v, visible):
    """(B, H, T, D) each, one query at a time, over the list of the keys that it may look at."""
    out = torch.zeros_like(q)
    for b, h, i in torch.cartesian_prod(*map(torch.arange, q.shape[:3])).tolist():
        keys = visible[b, h, i].nonzero()[:, 0]
        if len(keys):
            scores = k[b, h, keys] @ q[b, h, i] / math.sqrt(q.shape[-1])
            out[b, h, i] = torch.softmax(scores, 0) @ v[b, h, keys]
    return out


def gpt_by_hand(model, ids, mask, positions):
    """GPT-2 in plain arithmetic."""
    c = model.config
    visible = dense(mask, ids.shape[1], batch=len(ids), heads=c.n_head)
    x = model.wte.weight[ids] + model.wpe.weight[positions]
    for block in model.h:
        q, k, v = (
            part.unflatten(-1, (c.n_head, -1)).transpose(1, 2)
            for part in block.attn.c_attn(block.ln_1(x)).chunk(3, -1)
        )
        y = attention_by_hand(q, k, v, visible).transpose(1, 2).flatten(2)
        x = x + block.attn.c_proj(y)
        u = block.mlp.c_fc(block.ln_2(x))
        u = 0.5 * u * (1 + torch.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))
        x = x + block.mlp.c_proj(u)
    return model.ln_f(x) @ model.wte.weight.T


@pytest.mark.parametrize("name", MASKS)
def test_attention_is_the_one_written_by_hand(name):
    layer = Attention(GPTConfig(8, n_embd=12, n_head=2)).eval()
    layer.c_proj = nn.Identity()
    x = torch.randn(3, 6, 12, generator=torch.Generator().manual_seed(1))
    visible = dense(MASKS[name], 6, batch=3, heads=2)
    q, k, v = (t.unflatten(-1, (2, 6)).transpose(1, 2) for t in layer.c_attn(x).chunk(3, -1))
    wanted = attention_by_hand(q, k, v, visible).transpose(1, 2).flatten(2)
    torch.testing.assert_close(layer(x, visible), wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", MASKS)
def test_the_whole_network_is_the_one_written_by_hand(name):
    model, ids = tiny.gpt(n_head=2).double(), tiny.ids(3, 6)
    positions = torch.tensor([[0, 1, 2, 3, 4, 5], [0, 0, 1, 2, 3, 3], [9, 8, 7, 6, 5, 4]])
    wanted = gpt_by_hand(model, ids, MASKS[name], positions)
    torch.testing.assert_close(model(ids, MASKS[name], positions), wanted, atol=1e-10, rtol=0)


def test_a_mask_may_differ_from_head_to_head():
    model, ids = tiny.gpt(), tiny.ids(2, 5)
    only_first = Mask(lambda b, h, q, k: (k <= q) & ((h == 0) | (k == q)), "first head looks back")
    assert not torch.allclose(model(ids, only_first), model(ids, masks.causal), atol=1e-3)
    torch.testing.assert_close(
        model(ids, only_first),
        gpt_by_hand(model, ids, only_first, torch.arange(5)),
        atol=1e-5,
        rtol=0,
    )


def test_the_fast_causal_path_is_the_dense_one_values_and_gradients():
    model, ids = tiny.gpt().double(), tiny.ids(2, 7)
    same = Mask(lambda b, h, q, k: k <= q, "causal, but not the object")
    results = []
    for mask in (masks.causal, same):
        model.zero_grad()
        logits = model(ids, mask)
        logits.square().mean().backward()
        results.append([logits, *(p.grad.clone() for p in model.parameters())])
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-10, rtol=1e-9)


def test_gradients_are_those_of_the_network_written_by_hand():
    model, ids = tiny.gpt(n_layer=1).double(), tiny.ids(3, 6)
    model(ids, MASKS["causal and padding"]).square().mean().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    gpt_by_hand(model, ids, MASKS["causal and padding"], torch.arange(6)).square().mean().backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(found[name], p.grad, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_blind_query_reads_zeros_and_gives_zero_gradients(dtype, dropout):
    model = tiny.gpt(n_layer=1, dropout=dropout).to(dtype).train(dropout > 0)
    read = []
    model.h[0].attn.c_proj.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    logits = model(tiny.ids(2, 3), BLIND)
    assert (read[0][:, 1] == 0).all() and (read[0][:, [0, 2]] != 0).any()
    assert torch.isfinite(logits).all()
    (grad,) = torch.autograd.grad(logits[:, 1].sum(), model.h[0].attn.c_attn.weight)
    assert (grad == 0).all()  # what a blind query answers does not hang on queries, keys or values
    model(tiny.ids(2, 3), BLIND).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def in_pieces(model, ids, mask, positions, sizes):
    """The logits of ids read a few at a time."""
    cache, found, start = Cache(), [], 0
    for size in sizes:
        piece = slice(start, start + size)
        found.append(model(ids[:, piece], mask, positions[:, piece], cache))
        start += size
        assert cache.length == start
    return torch.cat(found, 1)


@pytest.mark.parametrize("sizes", [(1,) * 6, (3, 3), (4, 1, 1), (1, 5), (6,)])
@pytest.mark.parametrize(
    "name", ["causal", "causal and padding", "left window", "per head", "documents"]
)
def test_cached_is_uncached(name, sizes):
    both = Mask(lambda b, h, q, k: (k <= q) & ((h == 0) | (q - k < 2)), "per head")
    extra = {"left window": masks.sliding_window(2, 0), "per head": both}
    mask, model, ids = (MASKS | extra)[name], tiny.gpt(), tiny.ids(3, 6)
    positions = (torch.arange(6) - (~VALID).long().cumprod(1).sum(1)[:, None]).clamp(min=0)
    found = in_pieces(model, ids, mask, positions, sizes)
    torch.testing.assert_close(found, model(ids, mask, positions), atol=1e-5, rtol=1e-4)


def test_positions_go_on_behind_the_cache():
    model, ids, cache = tiny.gpt(), tiny.ids(2, 6), Cache()
    found = [model(ids[:, :4], cache=cache), model(ids[:, 4:5], cache=cache)]
    found.append(model(ids[:, 5:], cache=cache))
    torch.testing.assert_close(torch.cat(found, 1), model(ids), atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match=r"16 positions .*, asked for 6\.\.16"):
        model(tiny.ids(2, 11), cache=cache)


@pytest.mark.parametrize("name", ["bidirectional", "anticausal", "prefix", "window", "hybrid"])
def test_a_mask_that_would_change_cached_states_is_refused(name):
    model, ids, cache = tiny.gpt(), tiny.ids(1, 6), Cache()
    mask = MASKS[name]
    if name == "prefix":  # the same mask by its tokens; a number is refused at once, see below
        mask = masks.prefix_lm(torch.arange(6)[None] < 3)
    model(ids[:, :2], mask, cache=cache)
    with pytest.raises(ValueError, match=r"cached token \d may look at new token [2345]"):
        model(ids[:, 2:], mask, cache=cache)
    assert cache.length == 2  # nothing half-read
    first = {"bidirectional": (0, 2), "window": (1, 2), "hybrid": (0, 3)}.get(name, (0, 2))
    with pytest.raises(ValueError, match="cached token {} .* new token {},".format(*first)):
        model(ids[:, 2:], mask, cache=cache)


def test_a_prefix_longer_than_what_is_read_is_refused_at_once():
    model, ids, cache = tiny.gpt(), tiny.ids(1, 6), Cache()
    with pytest.raises(ValueError, match=r"prefix_lm\(3\).* rows of 3 tokens or more, not 2"):
        model(ids[:, :2], masks.prefix_lm(3), cache=cache)
    assert cache.length == 0


def test_a_prefix_that_was_read_whole_may_be_cached():
    model, ids = tiny.gpt(), tiny.ids(1, 6)
    mask = masks.prefix_lm(3)
    found = in_pieces(model, ids, mask, torch.arange(6)[None], (3, 1, 2))
    torch.testing.assert_close(found, model(ids, mask), atol=1e-5, rtol=1e-4)


def test_anticausal_from_the_end_is_causal_on_the_reversed_text():
    model, ids = tiny.gpt(), tiny.ids(3, 7)
    from_end = torch.arange(6, -1, -1)
    backward = model(ids, masks.anticausal, from_end)
    torch.testing.assert_close(backward.flip(1), model(ids.flip(1)), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(model(ids, masks.anticausal).flip(1), model(ids.flip(1)), atol=1e-2)


def test_positions_of_each_row_and_of_all_rows():
    model, ids = tiny.gpt(), tiny.ids(2, 4)
    shared, own = torch.tensor([3, 2, 1, 0]), torch.tensor([[3, 2, 1, 0], [5, 5, 5, 5]])
    torch.testing.assert_close(model(ids, positions=shared)[0], model(ids, positions=own)[0])
    assert not torch.allclose(model(ids, positions=shared)[1], model(ids, positions=own)[1])


def test_a_head_only_where_it_is_asked():
    model, ids = tiny.gpt(), tiny.ids(3, 6)
    asked = VALID
    torch.testing.assert_close(model.head(model.hidden(ids)[asked]), model(ids)[asked])
    assert model.hidden(ids).shape == (3, 6, 16) and model(ids).shape == (3, 6, 16)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(ids=torch.tensor([[1, 16]])), ValueError, r"ids lie in 0\.\.15, found 1\.\.16"),
        (dict(ids=torch.tensor([[-1, 2]])), ValueError, r"found -1\.\.2"),
        (dict(ids=torch.zeros(2, 0, dtype=torch.long)), ValueError, r"got \(2, 0\)"),
        (dict(ids=torch.zeros(0, 2, dtype=torch.long)), ValueError, r"got \(0, 2\)"),
        (dict(ids=torch.tensor([1, 2])), ValueError, r"\(B, T\).*got \(2,\)"),
        (dict(ids=torch.ones(1, 2)), TypeError, "torch.float32"),
        (dict(ids=tiny.ids(1, 17)), ValueError, r"16 positions .*0\.\.16"),
        (dict(ids=tiny.ids(2, 6), mask=MASKS["padding"]), ValueError, "batch of 3 rows, not 2"),
        (dict(ids=tiny.ids(3, 7), mask=MASKS["padding"]), ValueError, r"\(3, 6\).*7 queries"),
        (dict(ids=tiny.ids(2, 3), positions=torch.arange(4)), ValueError, r"got \(4,\)"),
        (dict(ids=tiny.ids(2, 3), positions=torch.zeros(3, 2).long()), ValueError, r"got \(3, 2\)"),
        (dict(ids=tiny.ids(2, 3), positions=torch.tensor([-1, 0, 1])), ValueError, r"-1\.\.1"),
        (dict(ids=tiny.ids(2, 3), mask=torch.ones(3, 3)), TypeError, "a mask is a callable"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(arguments, error, message):
    with pytest.raises(error, match=message):
        tiny.gpt()(**arguments)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (dict(vocab_size=0), "vocab_size is at least 1, got 0"),
        (dict(n_positions=0), "n_positions"),
        (dict(n_layer=-1), "n_layer is at least 0"),
        (dict(n_embd=10, n_head=4), "n_embd=10 is not divisible by n_head=4"),
        (dict(dropout=1.0), r"\[0, 1\)"),
        (dict(dropout=-0.1), r"\[0, 1\)"),
    ],
)
def test_sizes_that_make_no_network(sizes, message):
    with pytest.raises(ValueError, match=message):
        GPTConfig(**{"vocab_size": 8} | sizes)


def test_fresh_weights_come_from_the_generator_alone():
    config = GPTConfig(50, n_embd=64, n_layer=8, n_head=4)
    first, again = (GPT.init(config, torch.Generator().manual_seed(3)) for _ in range(2))
    for (name, p), q in zip(first.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q)
        scale = 0.02 / math.sqrt(16) if "c_proj" in name else 0.02
        if p.dim() == 2:
            assert abs(p.detach().std().item() / scale - 1) < 0.1, name
        else:
            assert (p == float(name.endswith("weight"))).all(), name


# -- files -------------------------------------------------------------------------------------


def test_save_and_load(tmp_path):
    path = tmp_path / "new" / "model.safetensors"
    model = tiny.gpt(vocab_size=17, n_head=4, dropout=0.25)
    model.save(path, edition="sunday", steps=3)
    loaded = GPT.load(path)
    assert loaded.config == model.config and not loaded.training
    ids = tiny.ids(2, 5)
    assert torch.equal(loaded(ids), model(ids))
    tensors = load_file(path)
    assert [name for name, t in tensors.items() if len(t) == 17] == ["wte.weight"]  # the head, too
    with safe_open(path, "pt") as file:
        assert file.metadata()["edition"] == "sunday" and file.metadata()["steps"] == "3"


def damaged(path, tmp_path):
    """Every way in which a file can be wrong, by name."""
    whole = path.read_bytes()
    tensors = load_file(path)
    good = {"format": "mylib.GPT 1"}
    config = '{"vocab_size": 16, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2'
    files = {name: tmp_path / f"{name}.safetensors" for name in ("cut", "short", "text", "empty")}
    files["cut"].write_bytes(whole[:-100])
    files["short"].write_bytes(whole[:50])
    files["text"].write_text("once upon a time")
    files["empty"].write_bytes(b"")
    for name, data, header in [
        ("foreign", tensors, None),
        ("other format", tensors, {"format": "pt", "config": config + "}"}),  # all else fits
        ("no config", tensors, good),
        ("no json", tensors, good | {"config": "{"}),
        (
            "bad sizes",
            tensors,
            good | {"config": config.replace('"n_head": 2', '"n_head": 3') + "}"},
        ),
        ("other sizes", tensors, good | {"config": config.replace("16", "8") + "}"}),
        ("unknown size", tensors, good | {"config": config + ', "bias": 1}'}),
        ("a list", tensors, good | {"config": "[1]"}),
        ("missing", dict(list(tensors.items())[1:]), good | {"config": config + "}"}),
    ]:
        files[name] = tmp_path / f"{name}.safetensors"
        save_file(data, files[name], header)
    return files


def test_damaged_and_foreign_files_are_refused_by_name(tmp_path):
    tiny.gpt().save(tmp_path / "model.safetensors")
    for kind, path in damaged(tmp_path / "model.safetensors", tmp_path).items():
        with pytest.raises(ValueError) as caught:
            GPT.load(path)
        assert str(path) in str(caught.value), kind
    with pytest.raises(FileNotFoundError, match="nowhere"):
        GPT.load(tmp_path / "nowhere.safetensors")
    with pytest.raises(FileNotFoundError):
        GPT.load(tmp_path)


def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    tiny.gpt(seed=1).save(path)
    before = path.read_bytes()

    def full_disk(tensors, name, header):
        name.write_bytes(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full_disk)
    with pytest.raises(OSError, match="no space"):
        tiny.gpt(seed=2).save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_half_a_file(tmp_path):
    model, (whole, half) = tiny.gpt(), (tmp_path / name for name in ("whole", "half"))
    model.save(whole)
    model.save(half, half=True, edition="sunday")
    assert {t.dtype for t in load_file(half).values()} == {torch.float16}
    assert {t.dtype for t in load_file(whole).values()} == {torch.float32}
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    with safe_open(half, "pt") as file:
        assert file.metadata()["edition"] == "sunday"
    again = GPT.load(half)
    assert again.config == model.config and not again.training
    for name, weight in model.state_dict().items():
        found = again.state_dict()[name]
        assert found.dtype == torch.float32 and torch.equal(found, weight.half().float())
        assert weight.dtype == torch.float32  # the model that was saved stays as it was
    again.save(tmp_path / "twice", half=True)  # once rounded, nothing more is lost
    kept = GPT.load(tmp_path / "twice").state_dict()
    assert all(torch.equal(kept[name], weight) for name, weight in again.state_dict().items())
    assert not torch.equal(again.wte.weight, model.wte.weight)


def test_a_note_does_not_overwrite_the_config(tmp_path):
    with pytest.raises(ValueError, match="'config'"):
        tiny.gpt().save(tmp_path / "model.safetensors", config="mine")
    assert not list(tmp_path.iterdir())


# -- against transformers ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair():
    """A tiny random GPT2LMHeadModel and our GPT with its weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = dict(vocab_size=40, n_positions=24, n_embd=32, n_layer=3, n_head=4)
    torch.manual_seed(0)
    theirs = GPT2LMHeadModel(GPT2Config(**sizes, initializer_range=0.2)).eval()
    for weight in theirs.parameters():  # biases and norms, too
        weight.data += 0.1 * torch.randn(weight.shape)
    return load_gpt2(theirs), theirs


@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
def test_logits_are_those_of_transformers(pair, dtype, within):
    ours, theirs = (model.to(dtype) for model in pair)
    ids = torch.randint(40, (3, 11), generator=torch.Generator().manual_seed(2))
    valid = torch.arange(11) < torch.tensor([11, 7, 1])[:, None]
    with torch.no_grad():
        causal = (ours(ids) - theirs(ids).logits).abs().max()
        padded = ours(ids, masks.causal & masks.padding(valid))
        padded = (padded - theirs(ids, attention_mask=valid.long()).logits)[valid].abs().max()
    assert causal < within and padded < within


# -- Muon --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(8, 8), (64, 16), (16, 64), (3, 40), (5, 12, 30), (4, 30, 12)])
def test_muon_brings_singular_values_near_one(shape):
    for seed in range(5):
        g = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        values = torch.linalg.svdvals(orthogonalised(g))
        # A square random matrix has singular values near zero, which five rounds do not lift.
        values = values if shape != (8, 8) else values[..., :-2]
        assert (values > 0.6).all() and (values < 1.3).all(), values
        u, _, vh = torch.linalg.svd(g, full_matrices=False)
        inside = (u.mT @ orthogonalised(g) @ vh.mT).diagonal(dim1=-2, dim2=-1)
        assert (inside > 0).all()  # the same directions


def test_muon_does_not_mind_the_size_of_the_gradient():
    g = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(orthogonalised(g), orthogonalised(1000 * g), atol=1e-4, rtol=0)
    assert (orthogonalised(torch.zeros(6, 9)) == 0).all()


def test_muon_is_torchs_muon():
    shapes = [(12, 20), (20, 12), (12, 12), (12, 20)]
    chance = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=chance) for shape in shapes]
    mine, theirs = ([nn.Parameter(p.clone()) for p in start] for _ in range(2))
    settings = dict(lr=0.1, momentum=0.9, weight_decay=0.3)
    ours = Muon(mine, **settings)
    torchs = torch.optim.Muon(theirs, **settings, nesterov=True, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        for p, q in zip(mine, theirs, strict=True):
            p.grad = torch.randn(p.shape, generator=chance)
            q.grad = p.grad.clone()
        ours.step()
        torchs.step()
    for p, q, old in zip(mine, theirs, start, strict=True):
        moved = (q - old).norm()
        assert moved > 1 and (p - q).norm() < 0.03 * moved  # torch's runs in bfloat16


def test_muon_is_for_matrices():
    with pytest.raises(ValueError, match=r"matrices.*\(3,\)"):
        Muon([nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(3))], lr=0.1)


def test_muon_leaves_parameters_without_gradient_alone():
    p, q = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(2, 3))
    p.grad = F.one_hot(torch.tensor([0, 1]), 3).float()
    Muon([p, q], lr=0.1, weight_decay=0.5).step()
    assert (q == 1).all() and not (p == 1).all()
