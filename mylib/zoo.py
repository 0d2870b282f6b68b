"""A zoo: tiny random decoders of many architectures, of transformers' own classes.

Nothing is downloaded. Each has 2 layers, 4 heads of size 8, a vocabulary of 64, and weights so
large that every open path shows in a probe. They talk nonsense; their masks are the real ones.

    ARCHITECTURES   attention in every layer: what other masks can make bidirectional
    RECURRENT       a recurrence or a convolution in some layer: its direction is no mask
    BACKENDS        the attention implementations to try; `supports` says who has which
    tiny(name)      the model

A name is transformers' ``model_type``, except for variants (``falcon-alibi``).
"""

from __future__ import annotations

from dataclasses import fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

BACKENDS = ("eager", "sdpa")
WINDOW = 4  # what a windowed layer sees: these many positions, its own included
NOISE = 0.25  # standard deviation of the weights

# Architectures with what they need besides _SIZES. A tuple is a pattern over the layers.
_ENCODER = {"is_decoder": True}
_MIXED = {"layer_types": ("sliding_attention", "full_attention")}
_HYBRID = {"layer_types": ("linear_attention", "full_attention")}
_EVERY_HEAD = {"num_key_value_heads": 4}

_ATTENTION: dict[str, dict[str, Any]] = {
    # positions: learned, sinusoids, ALiBi's distances, rotations
    "openai-gpt gpt2 gpt_bigcode opt biogpt": {},
    "ctrl xglm": {},
    "bloom mpt": {},
    "falcon-alibi": {"model_type": "falcon", "alibi": True},
    "falcon gptj codegen gpt_neox gpt_neox_japanese persimmon stablelm phi": {},
    # Llama and its relatives
    "llama qwen2 qwen3 gemma olmo olmo2 cohere glm glm4 granite nemotron helium smollm3 arcee": {},
    "apertus bitnet diffllama ernie4_5 seed_oss hunyuan_v1_dense nanochat jais2": {},
    # a window in every layer
    "mistral ministral starcoder2 phi3 doge": {},
    # windowed layers and full ones
    "gpt_neo": {"attention_types": ("global", "local")},
    "gemma2 gemma3_text cohere2 olmo3 exaone4 vaultgemma cwm afmoe": _MIXED,
    "gemma3n_text": {**_MIXED, "num_kv_shared_layers": 0, "altup_num_inputs": 2},
    "modernbert-decoder": {**_MIXED, "local_attention": 2 * WINDOW},
    "llama4_text": {"layer_types": ("chunked_attention", "full_attention")},
    # experts, some of them behind windows
    "mixtral phimoe": {},
    "qwen2_moe qwen3_moe olmoe flex_olmo granitemoe jetmoe ernie4_5_moe glm4_moe dots1": {},
    "hunyuan_v1_moe minimax_m2 solar_open": {},
    "gpt_oss exaone_moe": _MIXED,
    # keys and values through a bottleneck
    "deepseek_v2 deepseek_v3 minicpm3": _EVERY_HEAD,
    "longcat_flash": {**_EVERY_HEAD, "zero_expert_num": 2},  # two attentions per layer
    # decoders without their encoder; encoders told to be decoders
    "bart mbart marian pegasus blenderbot blenderbot-small plbart mvp trocr": {},
    "bert roberta xlm-roberta electra ernie megatron-bert rembert roformer big_bird": _ENCODER,
}
_STATES: dict[str, dict[str, Any]] = {
    "rwkv": {},
    "mamba falcon_mamba": {"time_step_rank": 4},
    "mamba2": {"num_heads": 8, "n_groups": 1},
    "xlstm": {
        "hidden_size": 64,
        "embedding_dim": 64,
        "num_heads": 4,
        "qk_dim_factor": 1.0,
        "chunk_size": 64,
    },
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4},
    "bamba": {"attn_layer_indices": [1]},
    "falcon_h1": {"mamba_d_ssm": 64},
    "granitemoehybrid": {"layer_types": ("mamba", "attention")},
    "zamba": {"layer_types": ("hybrid",), "mamba_dt_rank": 4},
    "zamba2": {"layer_types": ("linear_attention", "hybrid"), "n_mamba_heads": 8},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "lfm2": {"layer_types": ("conv", "full_attention")},
    "minimax qwen3_next qwen3_5_text olmo_hybrid": _HYBRID,
}

# For all; a config takes those that it has a field for, under whatever name.
_SIZES: dict[str, int] = {
    "vocab_size vocab_size_per_layer_input max_position_embeddings max_seq_len": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_size embedding_size input_embedding_size output_embedding_size": 32,
    "intermediate_size decoder_ffn_dim ffn_dim dff": 64,
    "num_attention_heads decoder_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim rotary_dim hidden_size_per_layer_input laurel_rank": 8,
    "sliding_window window_size attention_chunk_size attention_window_size": WINDOW,
    "num_experts num_local_experts n_routed_experts moe_num_experts": 4,
    "num_experts_per_tok moe_k": 2,
    "n_shared_experts n_group topk_group first_k_dense_replace num_dense_layers": 1,
    "moe_intermediate_size shared_intermediate_size shared_expert_intermediate_size": 16,
    "expert_ffn_hidden_size q_lora_rank kv_lora_rank": 16,
    "qk_nope_head_dim qk_rope_head_dim v_head_dim": 8,
    "state_size mamba_d_state mamba_d_head mamba_n_heads": 8,
    "chunk_size mamba_chunk_size block_size": 8,
    "linear_num_key_heads linear_num_value_heads": 4,
    "linear_key_head_dim linear_value_head_dim": 8,
}


def _one_by_one(grouped: dict[str, Any]) -> dict[str, Any]:
    return {name: value for names, value in grouped.items() for name in names.split()}


ARCHITECTURES = tuple(_one_by_one(_ATTENTION))
RECURRENT = tuple(_one_by_one(_STATES))


def tiny(name: str, backend: str = "sdpa", *, layers: int = 2, seed: int = 0) -> PreTrainedModel:
    """A random model with its language modelling head: CPU, float32, evaluation mode.

    ``name`` is one of `ARCHITECTURES` or `RECURRENT`; transformers gets ``backend`` as its
    ``attn_implementation``. Matrices are noise, N(0, 0.25²); vectors are what the architecture
    starts them at (scales 1, biases 0) plus noise. A ``seed`` gives the same weights with every
    backend. Torch's global generator is left as it was. Most of `RECURRENT` need 2 layers.

    Raises `ValueError` for an unknown name, and where transformers refuses the backend.

    >>> tiny("gpt2")(torch.arange(5)[None]).logits.shape
    torch.Size([1, 5, 64])
    """
    from transformers import AutoModelForCausalLM

    config = _config(name, layers)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed GPUs, too
        try:
            model = AutoModelForCausalLM.from_config(
                config, attn_implementation=backend, dtype=torch.float32
            )
        except (ImportError, ValueError) as error:
            raise ValueError(f"{name} does not build with {backend!r}: {error}") from error
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = NOISE * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise if parameter.dim() > 1 else parameter + noise)
    return model.eval()


def supports(name: str, backend: str) -> bool:
    """Does the architecture build with this backend? Raises `ValueError` for an unknown name."""
    _config(name, 2)
    try:
        tiny(name, backend)
    except ValueError:
        return False
    return True


def _config(name: str, layers: int) -> PretrainedConfig:
    from transformers import CONFIG_MAPPING

    table = _one_by_one(_ATTENTION) | _one_by_one(_STATES)
    if name not in table:
        near = get_close_matches(name, table)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"no architecture {name!r} in the zoo{hint}")
    wanted = _one_by_one(_SIZES)
    wanted |= dict.fromkeys(("num_hidden_layers", "num_layers", "decoder_layers"), layers)
    for key, value in table[name].items():
        if isinstance(value, tuple):
            value = [value[i % len(value)] for i in range(layers)]
        wanted[key] = [[value, 1]] if key == "attention_types" else value  # GPT-Neo: times 1
    kind = CONFIG_MAPPING[wanted.pop("model_type", name)]
    own = {field.name for field in fields(kind)}
    # GPT-2 calls hidden_size n_embd; a few have fields of both names.
    aliased = {kind.attribute_map.get(key, key): value for key, value in wanted.items()}
    return kind(**{key: value for key, value in (wanted | aliased).items() if key in own})
