"""What can be said about a cache's settings before a server is started, from the model's configuration alone.

A server takes a minute to find out in one of its inner processes; here it is one line at once. Only what is certain is
refused: the worker checks again with the real sizes.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from elmas.errors import UserError
from elmas.settings import CacheSettings
from elmas.units import format_bytes

_DTYPE_BYTES = {"float32": 4, "float": 4, "float16": 2, "half": 2, "bfloat16": 2}


def check_cache(settings: CacheSettings, block_bytes: int) -> None:
    """Raise UserError when the host tier cannot work on this machine; `block_bytes` is a lower bound of a block."""
    host_bytes = settings.host_memory_bytes()
    if host_bytes < block_bytes:
        raise UserError(
            f"host memory of {format_bytes(host_bytes)} holds no block of {format_bytes(block_bytes)}: "
            f"raise --host-memory (host_memory in kv_connector_extra_config) to at least {format_bytes(block_bytes)}"
        )


def least_block_bytes(model: str, block_size: int, dtype: str | None, kv_dtype: str | None) -> int:
    """Return a lower bound of the KV bytes of one block, all ranks together; 0 when it is not known.

    `model` may be anything; its configuration is looked at when it is a directory. `dtype` and `kv_dtype` are vLLM's
    arguments, None or "auto" where it decides.
    """
    path = Path(model).expanduser() / "config.json"
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError):
        return 0
    return block_size * least_kv_bytes_per_token(config, dtype, kv_dtype) if isinstance(config, dict) else 0


def least_kv_bytes_per_token(config: Mapping[str, Any], dtype: str | None, kv_dtype: str | None) -> int:
    """Return a lower bound of the KV bytes of one token, from a published configuration; 0 when it is not known."""
    n_heads = config.get("num_attention_heads")
    n_kv_heads = config.get("num_key_value_heads") or n_heads
    n_layers, hidden = config.get("num_hidden_layers"), config.get("hidden_size")
    if not (isinstance(n_heads, int) and isinstance(n_layers, int) and isinstance(hidden, int)):
        return 0
    if "kv_lora_rank" in config or not isinstance(n_kv_heads, int):
        return 0
    head_dim = config.get("head_dim") or hidden // n_heads
    item_bytes = 1
    if kv_dtype in (None, "auto"):
        stated = config.get("dtype") or config.get("torch_dtype") if dtype in (None, "auto") else dtype
        item_bytes = _DTYPE_BYTES.get(str(stated), 1)
    return int(2 * n_layers * n_kv_heads * head_dim * item_bytes)
