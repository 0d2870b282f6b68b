"""Weights from transformers' GPT-2 and back: the same logits, and every wrong model refused."""

import copy
import dataclasses
import json

import pytest
import tiny
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import (
    GPT2Config,
    GPT2DoubleHeadsModel,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    GPT2Model,
    LlamaConfig,
    LlamaForCausalLM,
)

from mylib import masks
from mylib.convert import gpt2
from mylib.convert.gpt2 import check_gpt2, load_gpt2, to_gpt2
from mylib.model import GPT

SIZES = dict(vocab_size=40, n_positions=24, n_embd=32, n_layer=3, n_head=4)
ENDS = dict(bos_token_id=None, eos_token_id=None)


def theirs(kind=GPT2LMHeadModel, backend="sdpa", **options):
    """A tiny model of transformers with every parameter drawn at random, in evaluation mode."""
    torch.manual_seed(0)
    options = SIZES | ENDS | {"initializer_range": 0.2} | options
    model = kind(GPT2Config(**options, attn_implementation=backend)).eval()
    for weight in model.parameters():  # biases and norms, too
        weight.data += 0.1 * torch.randn(weight.shape)
    return model


def opened(model):
    """The same model, made bidirectional."""
    model.config.is_causal = False
    for module in model.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False
    return model


def same(ours, others):
    """Are the two state dicts equal to the bit?"""
    ours, others = ours.state_dict(), others.state_dict()
    assert ours.keys() == others.keys()
    return all(torch.equal(w, others[n]) and w.dtype == others[n].dtype for n, w in ours.items())


# -- the same logits ---------------------------------------------------------------------------

LENGTHS = torch.tensor([11, 7, 1])[:, None]
VALID = {
    "none": torch.ones(3, 11).bool(),
    "right": torch.arange(11) < LENGTHS,
    "left": torch.arange(11) >= 11 - LENGTHS,
}


@pytest.mark.parametrize("padding", VALID)
@pytest.mark.parametrize("mask", ["causal", "bidirectional"])
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
def test_logits_are_those_of_transformers(dtype, within, backend, mask, padding):
    model = theirs(backend=backend).to(dtype)
    if mask == "bidirectional":
        opened(model)
    ours, valid = load_gpt2(model), VALID[padding]
    assert ours.wte.weight.dtype == dtype and not ours.training
    ids = torch.randint(40, (3, 11), generator=torch.Generator().manual_seed(2))
    positions = (valid.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        wanted = model(ids, attention_mask=valid.long(), position_ids=positions).logits
        found = ours(ids, getattr(masks, mask) & masks.padding(valid), positions=positions)
    assert (found - wanted)[valid].abs().max() < within


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_kept_and_checked(dtype, monkeypatch):
    model = theirs().to(dtype)
    ours = load_gpt2(model)
    assert all(weight.dtype == dtype for weight in ours.parameters())
    ids = torch.arange(8)[None]
    with torch.no_grad():
        assert (ours(ids) - model(ids).logits).abs().max() < 0.5  # of about 20
    monkeypatch.setattr("mylib.model.F.gelu", lambda x, approximate: F.silu(x))
    with pytest.raises(ValueError, match="logits differ"):
        load_gpt2(model)


def test_rounding_of_large_logits_is_no_mistake():
    model = theirs(backend="eager")
    model.transformer.ln_f.weight.data *= 1000
    ours = load_gpt2(model)
    assert check_gpt2(ours, model) > 1e-4
    ours.config = dataclasses.replace(ours.config)
    ours.ln_f.eps *= 1.001
    with pytest.raises(ValueError, match="logits differ"):
        check_gpt2(ours, model)


def test_the_weights_are_copies_and_the_original_stays_as_it_was():
    model = theirs(resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5).train()
    model.transformer.h[1].eval()
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    ours = load_gpt2(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert ours.config.dropout == 0.5 and not any(m.training for m in ours.modules())
    before = copy.deepcopy(ours)
    for weight in model.parameters():
        weight.data.zero_()
    assert same(ours, before) and all(w.requires_grad for w in ours.parameters())
    ours.head(ours.hidden(torch.zeros(1, 2, dtype=torch.long))).sum().backward()
    ours.train()
    check_gpt2(ours, to_gpt2(ours))
    assert all(module.training for module in ours.modules())


@pytest.mark.parametrize("name", ["gelu_new", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_fast"])
def test_every_name_of_the_tanh_gelu_is_taken(name):
    load_gpt2(theirs(activation_function=name, n_inner=128).double())


def test_sizes_at_the_edge():
    for sizes in (dict(n_positions=1), dict(n_layer=0), dict(n_embd=1, n_head=1), dict(n_head=1)):
        ours = load_gpt2(theirs(**sizes))
        assert same(load_gpt2(to_gpt2(ours)), ours)


# -- mistakes are seen -------------------------------------------------------------------------


def square_not_transposed(monkeypatch):
    names = ("c_attn.weight", "mlp.c_proj.weight", "c_fc.weight")
    monkeypatch.setattr(gpt2, "TRANSPOSED", names)


def interleaved_per_head(monkeypatch):
    right = gpt2._transposed

    def wrong(weights):  # as if the rows were (head, q|k|v, ...) and not (q|k|v, head, ...)
        def turn(w):
            return w.unflatten(0, (4, 3, 8)).transpose(0, 1).flatten(0, 2)

        return {n: turn(w) if ".c_attn." in n else w for n, w in right(weights).items()}

    monkeypatch.setattr(gpt2, "_transposed", wrong)


def q_and_k_swapped(monkeypatch):
    right = gpt2._transposed

    def wrong(weights):
        def turn(w):
            q, k, v = w.chunk(3)
            return torch.cat([k, q, v])

        return {n: turn(w) if ".c_attn." in n else w for n, w in right(weights).items()}

    monkeypatch.setattr(gpt2, "_transposed", wrong)


def exact_gelu(monkeypatch):
    right = F.gelu
    monkeypatch.setattr("mylib.model.F.gelu", lambda x, approximate: right(x))


def other_epsilon(monkeypatch):
    right = gpt2._our_config
    monkeypatch.setattr(
        gpt2, "_our_config", lambda c: dataclasses.replace(right(c), layer_norm_epsilon=1e-6)
    )


MISTAKES = [square_not_transposed, interleaved_per_head, q_and_k_swapped, exact_gelu, other_epsilon]


@pytest.mark.parametrize("direction", ["causal", "bidirectional"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_mapping_never_passes(mistake, direction, monkeypatch, tmp_path):
    model = theirs()
    if direction == "bidirectional":
        opened(model)
    load_gpt2(model)
    model.save_pretrained(tmp_path)
    mistake(monkeypatch)
    for source in (model, tmp_path):
        with pytest.raises(ValueError, match="logits differ from those of transformers by up to"):
            load_gpt2(source)


def test_a_wrong_mapping_back_never_passes(monkeypatch):
    square_not_transposed(monkeypatch)
    with pytest.raises(ValueError, match="logits differ"):
        to_gpt2(tiny.gpt())


@pytest.mark.parametrize("which", ["flags only", "one layer only"])
def test_a_model_opened_by_half_is_refused(which):
    model = theirs()
    for block in model.transformer.h[slice(None) if which == "flags only" else slice(1)]:
        block.attn.is_causal = False
    with pytest.raises(ValueError, match="logits differ"):
        load_gpt2(model)


def test_nan_is_refused():
    model = theirs()
    model.transformer.wpe.weight.data[3] = torch.nan
    with pytest.raises(ValueError, match="up to nan"):
        load_gpt2(model)


# -- what our GPT cannot express ---------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        dict(activation_function="gelu"),
        dict(activation_function="relu"),
        dict(n_inner=64),
        dict(add_cross_attention=True),
        dict(scale_attn_weights=False),
        dict(scale_attn_by_inverse_layer_idx=True),
        dict(reorder_and_upcast_attn=True),
        dict(attn_pdrop=0.2),
    ],
    ids=str,
)
def test_options_are_refused_by_name_and_value(options, tmp_path):
    model = theirs(**options)
    model.save_pretrained(tmp_path)
    [(name, value)] = options.items()
    wanted = rf"{name}={value!r}" if name != "attn_pdrop" else "'attn_pdrop': 0.2, 'resid_pdrop': 0"
    for source in (model, tmp_path):
        with pytest.raises(ValueError, match=wanted):
            load_gpt2(source)


def test_an_untied_head_passes_only_with_the_weights_of_the_embedding(tmp_path):
    model = theirs(tie_word_embeddings=False)
    model.save_pretrained(tmp_path / "untied")
    theirs().save_pretrained(tmp_path / "tied")  # its config says tied, the file will disagree
    save_file(model.state_dict(), tmp_path / "tied" / "model.safetensors", {"format": "pt"})
    for source in (model, tmp_path / "untied", tmp_path / "tied"):
        with pytest.raises(ValueError, match=r"lm_head\.weight is not wte\.weight"):
            load_gpt2(source)
    model.lm_head.weight.data.copy_(model.transformer.wte.weight)
    model.save_pretrained(tmp_path / "equal")
    assert same(load_gpt2(tmp_path / "equal"), load_gpt2(model))


def test_other_models_are_refused(tmp_path):
    sizes = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    llama = LlamaForCausalLM(LlamaConfig(vocab_size=40, **sizes))
    llama.save_pretrained(tmp_path / "llama")
    with pytest.raises(ValueError, match=r"LlamaForCausalLM.*'llama'"):
        load_gpt2(llama)
    with pytest.raises(ValueError, match=r"llama: .*model_type is 'llama'"):
        load_gpt2(tmp_path / "llama")
    for kind, extra in (
        (GPT2ForSequenceClassification, r"score\.weight"),
        (GPT2DoubleHeadsModel, "multiple_choice_head"),
    ):
        model = theirs(kind)
        model.save_pretrained(tmp_path / kind.__name__)
        with pytest.raises(ValueError, match=kind.__name__):
            load_gpt2(model)
        with pytest.raises(ValueError, match=f"unexpected_keys.*{extra}"):
            load_gpt2(tmp_path / kind.__name__)
    for thing in (torch.nn.Linear(2, 2), tiny.gpt(), None):
        with pytest.raises(ValueError, match=f"no GPT-2, but {type(thing).__name__}"):
            load_gpt2(thing)


def test_wrapped_and_quantised_matrices_are_refused():
    model = theirs()
    attention = model.transformer.h[0].attn
    attention.c_attn = torch.nn.Sequential(attention.c_attn)  # as LoRA does
    with pytest.raises(ValueError, match=r"h\.0\.attn\.c_attn\.0\.weight"):
        load_gpt2(model)
    model = theirs()
    weight = model.transformer.h[0].mlp.c_fc.weight
    weight.requires_grad_(False)
    weight.data = weight.data.to(torch.int8)
    with pytest.raises(ValueError, match=r"not the weights of a plain GPT-2"):
        load_gpt2(model)
    model = theirs()
    model.config.quantization_config = {"quant_method": "bitsandbytes"}
    with pytest.raises(ValueError, match=r"quantization_config=.*bitsandbytes"):
        load_gpt2(model)


# -- folders -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_folder_gives_what_the_model_in_memory_gives(dtype, tmp_path):
    model = theirs().to(dtype)
    model.save_pretrained(tmp_path / "head")
    model.transformer.save_pretrained(tmp_path / "base")
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    wanted = load_gpt2(model)
    for folder in ("head", "base", "shards"):
        for source in (tmp_path / folder, str(tmp_path / folder)):
            assert same(load_gpt2(source), wanted), folder
    base = load_gpt2(model.transformer)
    assert isinstance(model.transformer, GPT2Model) and same(base, wanted)
    assert base.config == wanted.config == load_gpt2(tmp_path / "base").config


def test_a_bidirectional_model_comes_back_from_its_folder(tmp_path):
    model = opened(theirs())
    model.save_pretrained(tmp_path)
    assert same(load_gpt2(tmp_path), load_gpt2(model))


@pytest.mark.parametrize("form", ["safetensors", "bin"])
@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_triangles_of_old_checkpoints_are_skipped(form, prefix, tmp_path):
    model = theirs()
    model.config.save_pretrained(tmp_path)

    def write(**extra):
        weights = {prefix + n: w for n, w in model.transformer.state_dict().items()}
        for layer in range(3):
            triangle = torch.ones(24, 24).tril()[None, None].to(torch.uint8)
            weights[f"{prefix}h.{layer}.attn.bias"] = triangle
            weights[f"{prefix}h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
        weights = {n: w for n, w in (weights | extra).items() if w is not None}
        if form == "safetensors":
            save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
        else:
            torch.save(weights, tmp_path / "pytorch_model.bin")

    write()
    assert same(load_gpt2(tmp_path), load_gpt2(model))
    for problem, name, tensor in (
        ("unexpected_keys", "h.0.attn.rotary", torch.ones(2)),
        ("unexpected_keys", "h.3.ln_1.weight", torch.ones(32)),
        ("missing_keys", "h.1.ln_1.weight", None),
        ("mismatched_keys", "ln_f.weight", torch.ones(31)),
        ("mismatched_keys", "h.2.mlp.c_fc.weight", torch.ones(128, 32)),  # Linear, not Conv1D
    ):
        write(**{prefix + name: tensor})
        with pytest.raises(ValueError, match=f"{problem}.*{name}"):
            load_gpt2(tmp_path)


def test_triangles_in_memory_are_skipped():
    model = theirs()
    for block in model.transformer.h:
        block.attn.register_buffer("bias", torch.ones(1, 1, 24, 24).tril())
        block.attn.register_buffer("masked_bias", torch.tensor(-1e4))
    assert same(load_gpt2(model), load_gpt2(theirs()))


def test_folders_that_hold_no_model_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path}: .*no config.json"):
        load_gpt2(tmp_path)
    theirs().config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"{tmp_path}: .*no file named model\.safetensors"):
        load_gpt2(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"rubbish")
    with pytest.raises(ValueError, match=f"{tmp_path}: not a GPT-2 that can be read"):
        load_gpt2(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"rubbish")
    with pytest.raises(ValueError, match=f"{tmp_path}: not a GPT-2 that can be read"):
        load_gpt2(tmp_path)
    with pytest.raises(ValueError, match=r"model\.safetensors: .*no config.json"):
        load_gpt2(tmp_path / "model.safetensors")
    config = tmp_path / "config.json"
    for text in ("", "[]", "{}", json.dumps({"model_type": "mine", "auto_map": {"": "run.me"}})):
        config.write_text(text)
        with pytest.raises(ValueError, match=f"{tmp_path}: not a GPT-2 that can be read"):
            load_gpt2(tmp_path)


def test_a_name_that_is_nowhere(tmp_path, monkeypatch):
    # The variable was read when huggingface_hub was imported; the flag is what counts now.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no folder.*nowhere"):
        load_gpt2(tmp_path / "nowhere")
    for name in ("nobody/nothing-at-all", "no name", str(tmp_path / "nowhere")):
        with pytest.raises(FileNotFoundError, match=f"'{name}' is not a folder, and neither"):
            load_gpt2(name)


# -- and back ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_to_gpt2_undoes_load_gpt2(dtype):
    model = theirs(layer_norm_epsilon=1e-3, **dict.fromkeys(gpt2.DROPOUTS, 0.2)).to(dtype)
    back = to_gpt2(load_gpt2(model))
    assert type(back) is GPT2LMHeadModel and not back.training
    assert same(back, model) and back.dtype == dtype
    assert back.lm_head.weight is back.transformer.wte.weight
    ids = torch.arange(20)[None]
    assert torch.equal(back(ids).logits, model(ids).logits)
    told, was = back.config.to_dict(), model.config.to_dict()
    changed = {name for name in told.keys() | was.keys() if told.get(name) != was.get(name)}
    assert changed <= {"initializer_range", "dtype"}  # how it was born, and a note for saving


def test_our_model_through_a_folder_comes_back_bit_for_bit(tmp_path):
    ours = tiny.gpt(dropout=0.3, layer_norm_epsilon=2e-5)
    to_gpt2(ours).save_pretrained(tmp_path)
    back = load_gpt2(tmp_path)
    assert isinstance(back, GPT) and back.config == ours.config and same(back, ours)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")


def test_the_model_of_the_way_back_shares_nothing():
    ours = tiny.gpt()
    back = to_gpt2(ours)
    before = copy.deepcopy(back)
    for weight in ours.parameters():
        weight.data.zero_()
    assert same(back, before)


def test_the_end_of_text_is_known_where_the_vocabulary_reaches_it():
    config = to_gpt2(tiny.gpt(vocab_size=50257, n_embd=2)).config
    assert (config.bos_token_id, config.eos_token_id) == (50256, 50256)
    config = to_gpt2(tiny.gpt(vocab_size=50256, n_embd=2)).config
    assert (config.bos_token_id, config.eos_token_id) == (None, None)
