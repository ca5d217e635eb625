"""The shapes of the models that `elmas model` can write, as data. Knows no file and no framework."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from elmas.errors import UserError

TOKENIZER_VOCABULARY = 2048
"""Tokens of the project's tokenizer. The tiny model has exactly this many, so it never emits an unknown id."""

_DTYPE_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Preset:
    """One decoder-only transformer: grouped-query attention, gated MLP, RMSNorm, rotary positions."""

    name: str
    hidden_size: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_positions: int
    rope_theta: float
    rms_norm_eps: float
    family: Literal["llama", "qwen3"] = "llama"
    rope_scaling: Mapping[str, Any] | None = None
    tied_embeddings: bool = False
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    has_weights: bool = False
    """True: random weights are written. False: the model is served with `--load-format dummy`."""
    note: str = field(default="", compare=False)


def n_parameters(preset: Preset) -> int:
    """Return the number of weights; tied embeddings count once."""
    hidden, head_dim = preset.hidden_size, preset.head_dim
    query_size, kv_size = preset.n_heads * head_dim, preset.n_kv_heads * head_dim
    attention = 2 * hidden * query_size + 2 * hidden * kv_size
    if preset.family == "qwen3":
        attention += 2 * head_dim  # one norm for the queries and one for the keys, shared by the heads
    mlp = 3 * hidden * preset.intermediate_size
    norms = 2 * hidden
    embeddings = preset.vocab_size * hidden * (1 if preset.tied_embeddings else 2)
    return preset.n_layers * (attention + mlp + norms) + hidden + embeddings


def kv_bytes_per_token(preset: Preset) -> int:
    """Return the bytes of keys and values that one token holds in the cache, over all layers, in the preset's dtype."""
    return preset.n_layers * 2 * preset.n_kv_heads * preset.head_dim * _DTYPE_BYTES[preset.dtype]


PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            name="tiny",
            hidden_size=512,
            n_layers=8,
            n_heads=8,
            n_kv_heads=4,
            head_dim=64,
            intermediate_size=1408,
            vocab_size=TOKENIZER_VOCABULARY,
            max_positions=32768,
            rope_theta=10_000.0,
            rms_norm_eps=1e-5,
            dtype="float32",
            has_weights=True,
            note="random weights for tests and demos on a CPU",
        ),
        Preset(
            name="llama-3.2-1b",
            hidden_size=2048,
            n_layers=16,
            n_heads=32,
            n_kv_heads=8,
            head_dim=64,
            intermediate_size=8192,
            vocab_size=128_256,
            max_positions=131_072,
            rope_theta=500_000.0,
            rope_scaling={
                "rope_type": "llama3",
                "factor": 32.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
            rms_norm_eps=1e-5,
            tied_embeddings=True,
            note="shape of Llama 3.2 1B",
        ),
        Preset(
            name="llama-3-8b",
            hidden_size=4096,
            n_layers=32,
            n_heads=32,
            n_kv_heads=8,
            head_dim=128,
            intermediate_size=14_336,
            vocab_size=128_256,
            max_positions=8192,
            rope_theta=500_000.0,
            rms_norm_eps=1e-5,
            note="shape of Llama 3 8B",
        ),
        Preset(
            name="qwen3-32b",
            hidden_size=5120,
            n_layers=64,
            n_heads=64,
            n_kv_heads=8,
            head_dim=128,
            intermediate_size=25_600,
            vocab_size=151_936,
            max_positions=40_960,
            rope_theta=1_000_000.0,
            rms_norm_eps=1e-6,
            family="qwen3",
            note="shape of Qwen3 32B",
        ),
        Preset(
            name="llama-3-70b",
            hidden_size=8192,
            n_layers=80,
            n_heads=64,
            n_kv_heads=8,
            head_dim=128,
            intermediate_size=28_672,
            vocab_size=128_256,
            max_positions=8192,
            rope_theta=500_000.0,
            rms_norm_eps=1e-5,
            note="shape of Llama 3 70B",
        ),
    )
}


def find_preset(name: str) -> Preset:
    """Return the preset called `name`, in any case and also without its "llama-".

    Raises UserError that lists the names for an unknown one.
    """
    preset = PRESETS.get(name.lower()) or PRESETS.get(f"llama-{name.lower()}")
    if preset is None:
        raise UserError(f"unknown model {name!r}: choose one of {', '.join(PRESETS)}")
    return preset
