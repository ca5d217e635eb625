"""Random weights of a Llama-shaped model, from numpy alone: the same seed gives the same bytes on every machine.

The model knows nothing, but it is a sharp instrument for testing a cache:

- Every token depends on the whole context. Attention is peaked enough not to be a plain average: one other token at the
  beginning of a prompt changes about half of the next tokens 500 positions later, and a quarter of them after 3,000. A
  wrong KV block shows in the tokens.
- Greedy tokens do not depend on batching or chunking. The rounding noise between two orders of computation is about a
  hundred-thousandth of the usual distance between the two largest logits: a few tokens in a million can differ.
- Activations stay near one through the layers, and the output is a varied sequence of words without an end token.
"""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from elmas.models.presets import Preset

Array = npt.NDArray[np.float32]

QUERY_KEY_SCALE = 1.8
"""Attention scores have about the square of this as their standard deviation. Less averages over the whole context and
forgets single tokens; more lets rounding noise grow from layer to layer."""

ATTENTION_SCALE = 0.8
"""What attention adds to a residual stream of size one. More makes all positions alike, which repeats words."""

MLP_SCALE = 0.5
"""What the MLP adds to a residual stream of size one."""

LOGIT_SCALE = 4.0
"""Standard deviation of the logits. It changes sampling only: greedy tokens are the same at every scale."""

_SILU_PRODUCT_VARIANCE = 0.36
"""Variance of silu(a) * b for independent standard normal a and b."""


def random_weights(preset: Preset, seed: int, output_ids: Sequence[int]) -> Iterator[tuple[str, Array]]:
    """Yield (name, float32 array) for every tensor that transformers' LlamaForCausalLM expects.

    Only `output_ids` can be generated: the rows of all other tokens in the output matrix are zero, and with hundreds of
    random rows beside them a logit of zero is never the largest. So the model never ends its answer by itself.
    """
    hidden, inner = preset.hidden_size, preset.intermediate_size
    query_size, kv_size = preset.n_heads * preset.head_dim, preset.n_kv_heads * preset.head_dim

    def normal(name: str, rows: int, columns: int, scale: float) -> tuple[str, Array]:
        # Each tensor has a stream of its own, so that adding or reshaping one leaves the others as they are.
        key = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:16])
        values = np.random.Generator(np.random.PCG64(key)).standard_normal((rows, columns), dtype=np.float32)
        return name, values * np.float32(scale)

    ones = np.ones(hidden, dtype=np.float32)
    yield normal("model.embed_tokens.weight", preset.vocab_size, hidden, 1.0)
    for layer in range(preset.n_layers):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight", ones
        yield normal(f"{prefix}.self_attn.q_proj.weight", query_size, hidden, QUERY_KEY_SCALE / hidden**0.5)
        yield normal(f"{prefix}.self_attn.k_proj.weight", kv_size, hidden, QUERY_KEY_SCALE / hidden**0.5)
        yield normal(f"{prefix}.self_attn.v_proj.weight", kv_size, hidden, 1 / hidden**0.5)
        yield normal(f"{prefix}.self_attn.o_proj.weight", hidden, query_size, ATTENTION_SCALE / query_size**0.5)
        yield f"{prefix}.post_attention_layernorm.weight", ones
        yield normal(f"{prefix}.mlp.gate_proj.weight", inner, hidden, 1 / hidden**0.5)
        yield normal(f"{prefix}.mlp.up_proj.weight", inner, hidden, 1 / hidden**0.5)
        yield normal(
            f"{prefix}.mlp.down_proj.weight", hidden, inner, MLP_SCALE / (_SILU_PRODUCT_VARIANCE * inner) ** 0.5
        )
    yield "model.norm.weight", ones
    name, output = normal("lm_head.weight", preset.vocab_size, hidden, LOGIT_SCALE / hidden**0.5)
    silent = np.ones(preset.vocab_size, dtype=bool)
    silent[list(output_ids)] = False
    output[silent] = 0
    yield name, output
