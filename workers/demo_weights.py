"""The weights of the demonstration models: random, seeded, and made to babble politely.

A plain random model never ends its turn and mixes bytes of broken characters into its text. Here
one hidden dimension is constant: embeddings hold `_CONSTANT` there and no layer writes to it, so
its column of the output head acts as a bias per token. Tokens that read as words get none, all
others a prohibitive one, and the end of the turn one that ends a sampled answer after some dozens
of tokens. It is no language model and knows nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from workers import demo_tokenizer as words

_CONSTANT = 2.0
_HEAD_SPREAD = 0.13
_LAYER_SPREAD = 0.04
_UNSPOKEN_BIAS = -40.0

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Dimensions:
    """The sizes of a Llama-like decoder; `experts` above zero makes it a Mixtral."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    max_model_len: int
    experts: int = 0
    experts_per_token: int = 2
    seed: int = 0
    turn_end_bias: float = 6.0
    """How strongly a sampled answer tends to its end."""

    @property
    def head_size(self) -> int:
        return self.hidden // self.heads


LLAMA = Dimensions(
    hidden=512,
    intermediate=1408,
    layers=8,
    heads=8,
    kv_heads=4,
    max_model_len=8192,
    seed=28,
    turn_end_bias=7.0,
)
MIXTRAL = Dimensions(
    hidden=256,
    intermediate=384,
    layers=2,
    heads=4,
    kv_heads=2,
    max_model_len=8192,
    experts=4,
    seed=47,
    turn_end_bias=3.8,
)
DEMO_DIMENSIONS = {"llama": LLAMA, "mixtral": MIXTRAL}


def model_config(sizes: Dimensions) -> dict[str, Any]:
    """The contents of `config.json`."""
    config: dict[str, Any] = {
        "architectures": ["MixtralForCausalLM" if sizes.experts else "LlamaForCausalLM"],
        "model_type": "mixtral" if sizes.experts else "llama",
        "vocab_size": words.VOCABULARY,
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.intermediate,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "head_dim": sizes.head_size,
        "max_position_embeddings": sizes.max_model_len,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        "tie_word_embeddings": False,
        "bos_token_id": words.BOS_ID,
        "eos_token_id": words.EOS_ID,
        "pad_token_id": words.PAD_ID,
        "dtype": "bfloat16",
    }
    if sizes.experts:
        config["num_local_experts"] = sizes.experts
        config["num_experts_per_tok"] = sizes.experts_per_token
    return config


def weights(sizes: Dimensions, wordlike: Sequence[int]) -> Iterator[tuple[str, Floats]]:
    """Each tensor by its name in a Hugging Face checkpoint, as float32."""
    rng = np.random.Generator(np.random.PCG64(sizes.seed))
    embeddings = _uniform(rng, (words.VOCABULARY, sizes.hidden), 1.0)
    embeddings[:, 0] = _CONSTANT
    yield "model.embed_tokens.weight", embeddings
    for layer in range(sizes.layers):
        for name, tensor in _layer(sizes, rng):
            yield f"model.layers.{layer}.{name}", tensor
    yield "model.norm.weight", np.ones(sizes.hidden, np.float32)
    head = _uniform(
        rng, (words.VOCABULARY, sizes.hidden), _HEAD_SPREAD * (512 / sizes.hidden) ** 0.5
    )
    head[:, 0] = _UNSPOKEN_BIAS
    head[list(wordlike), 0] = 0.0
    head[words.TURN_END_ID] = 0.0
    head[words.TURN_END_ID, 0] = sizes.turn_end_bias
    yield "lm_head.weight", head


def to_bfloat16(tensor: Floats) -> bytes:
    """The tensor's bits as bfloat16, rounded to the nearest even."""
    bits = np.ascontiguousarray(tensor, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return rounded.astype("<u2").tobytes()


def _layer(sizes: Dimensions, rng: np.random.Generator) -> Iterator[tuple[str, Floats]]:
    hidden, kv_width = sizes.hidden, sizes.kv_heads * sizes.head_size
    spread = _LAYER_SPREAD
    yield "input_layernorm.weight", np.ones(hidden, np.float32)
    yield "post_attention_layernorm.weight", np.ones(hidden, np.float32)
    yield "self_attn.q_proj.weight", _uniform(rng, (hidden, hidden), spread)
    yield "self_attn.k_proj.weight", _uniform(rng, (kv_width, hidden), spread)
    yield "self_attn.v_proj.weight", _uniform(rng, (kv_width, hidden), spread)
    yield "self_attn.o_proj.weight", _silent_first_row(_uniform(rng, (hidden, hidden), spread))
    inner = (sizes.intermediate, hidden)
    outer = (hidden, sizes.intermediate)
    if not sizes.experts:
        yield "mlp.gate_proj.weight", _uniform(rng, inner, spread)
        yield "mlp.up_proj.weight", _uniform(rng, inner, spread)
        yield "mlp.down_proj.weight", _silent_first_row(_uniform(rng, outer, spread))
        return
    moe = "block_sparse_moe"
    yield f"{moe}.gate.weight", _uniform(rng, (sizes.experts, hidden), spread)
    for expert in range(sizes.experts):
        yield f"{moe}.experts.{expert}.w1.weight", _uniform(rng, inner, spread)
        yield f"{moe}.experts.{expert}.w3.weight", _uniform(rng, inner, spread)
        down = _silent_first_row(_uniform(rng, outer, spread))
        yield f"{moe}.experts.{expert}.w2.weight", down


def _uniform(rng: np.random.Generator, shape: tuple[int, int], spread: float) -> Floats:
    """Uniform values with standard deviation `spread`: exact arithmetic, equal everywhere."""
    width = np.float32(2 * spread * 3**0.5)
    return (rng.random(shape, dtype=np.float32) - np.float32(0.5)) * width


def _silent_first_row(tensor: Floats) -> Floats:
    """The tensor with no output to the constant dimension."""
    tensor[0, :] = 0.0
    return tensor
