"""The namespace of what is stored: facts that are equal exactly where KV bytes of one server serve another.

A block's hash names its tokens only. Which model computed them, in which precision, and which byte of a row means what
is not in it, so a directory is bound to these facts and blocks of other facts are never read.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import vllm
import xxhash

from elmas.errors import UserError
from elmas.vllm.geometry import Geometry
from elmas.vllm.weights_identity import find_model_directory, weights_identity

ROW_FORMAT = 1
"""How this version of elmas lays out a row; raised when the same geometry comes to mean other bytes."""

_INLINE_BYTES = 96
"""Longer facts are kept as a digest, so that all of them together fit a header page."""

_LOCAL_FORMATS = frozenset((
    "auto", "hf", "safetensors", "pt", "mistral", "npcache", "sharded_state", "fastsafetensors", "instanttensor",
    "bitsandbytes", "gguf", "runai_streamer", "runai_streamer_sharded",
))  # fmt: skip
"""vLLM's load formats that read the weights from the model's directory."""

_MULTIMODAL_OPTIONS = (
    "mm_processor_kwargs",
    "media_io_kwargs",
    "mm_hasher_algorithm",
    "mm_encoder_attn_dtype",
    "mm_device_do_normalize",
    "video_pruning_rate",
    "video_pruning_method",
)
"""What turns an image or a sound, of which the block hash knows the content only, into embeddings."""


def namespace_facts(
    vllm_config: Any, kv_cache_config: Any, geometry_facts: Mapping[str, Any], none_hash: bytes
) -> dict[str, Any]:
    """Return facts, plain JSON of less than 3,500 bytes, such that equal facts mean interchangeable KV bytes.

    `geometry_facts` says how a block lies in a row (JSON values: bytes per rank, sizes of the segments in order, ranks,
    bytes of a row, and `row_layout` of every rank). `none_hash` is vLLM's hash before the first block. Raises UserError
    when the weights cannot be identified: the disk tier must not be used then.
    """
    model, cache, load = vllm_config.model_config, vllm_config.cache_config, vllm_config.load_config
    group = kv_cache_config.kv_cache_groups[0]
    hf_config = model.hf_config.to_json_string()
    is_dummy = load.load_format == "dummy"
    return {
        "row_format": ROW_FORMAT,
        "vllm": vllm.__version__,
        "device": vllm_config.device_config.device_type,
        "model": _inline(_absolute(model.model)),
        "revision": _inline(model.revision),
        "code": _inline([model.model_impl, model.code_revision, model.model_class_overrides]),
        "config": digest(hf_config),
        # Scaling for long contexts computes other keys from the longest length that is served.
        "max_model_len": model.max_model_len if "longrope" in hf_config else None,
        "weights": f"dummy {model.seed}" if is_dummy else _weights(model, load),
        "load_format": [str(load.load_format), _inline(load.model_loader_extra_config)],
        "dtype": str(model.dtype).removeprefix("torch."),
        "quantization": [_inline(model.quantization), _inline(model.quantization_config)],
        "cache_dtype": [str(cache.cache_dtype), _inline(cache.kv_cache_dtype_skip_layers)],
        "multimodal": _multimodal(model.multimodal_config),
        "attention_backend": _inline(vllm_config.attention_config.backend),
        "kv_cache_layout": cache.kv_cache_layout,
        "kv_cache_group": digest(f"{group.kv_cache_spec} {group.layer_names}"),
        "block_size": group.kv_cache_spec.block_size,
        "hash": cache.prefix_caching_hash_algo,
        "none_hash": none_hash.hex(),
        "tensor_parallel_size": vllm_config.parallel_config.tensor_parallel_size,
        "speculative": _speculative(vllm_config.speculative_config, load),
        "geometry": {name: _inline(value) for name, value in geometry_facts.items()},
    }


def row_layout(kv_caches: Mapping[str, torch.Tensor], geometry: Geometry) -> str:
    """Return a digest of what each byte of this rank's part of a row means: layer, element type, shape, strides, place.

    Layers lie in a row by their addresses, which another start may order differently, and kernels order heads and
    tokens in their own ways within the same number of bytes.
    """
    layers = []
    for layer, tensor in kv_caches.items():
        offset, place = 0, None
        for segment in geometry.segments:
            if 0 <= tensor.data_ptr() - segment.address < segment.n_bytes:
                place = offset + tensor.data_ptr() - segment.address
            offset += segment.n_bytes
        n_kernel_blocks = tensor.shape[0] // geometry.n_blocks
        layers.append([layer, str(tensor.dtype), n_kernel_blocks, *tensor.shape[1:], list(tensor.stride()), place])
    return digest(json.dumps(layers))


def digest(text: str) -> str:
    """Return 32 hexadecimal digits that differ where `text` differs."""
    return xxhash.xxh3_128_hexdigest(text.encode())


def _inline(value: Any) -> Any:
    """Return a JSON value as it is when it is short, else its end and its digest."""
    text = json.dumps(value, sort_keys=True, default=str)
    if len(text) <= _INLINE_BYTES:
        return json.loads(text)
    tail = text[-_INLINE_BYTES // 3 :].strip('"')
    return f"...{tail} {digest(text)}"


def _absolute(model: str) -> str:
    path = Path(model).expanduser()
    return str(path.absolute()) if path.exists() else model


def _weights(model: Any, load: Any) -> str:
    if load.load_format not in _LOCAL_FORMATS or model.model_weights:
        where = model.model_weights or f"load format {load.load_format}"
        raise UserError(f"cannot tell which weights {where} stands for: drop --disk, or serve a model directory")
    return weights_identity(find_model_directory(model.model, model.revision, load.download_dir))


def _multimodal(config: Any) -> str | None:
    if config is None:
        return None
    values = [getattr(config, name, None) for name in _MULTIMODAL_OPTIONS]
    return digest(json.dumps(values, sort_keys=True, default=str))


def _speculative(config: Any, load: Any) -> list[Any] | None:
    if config is None:
        return None
    draft = config.draft_model_config  # its layers are part of a block
    is_dummy = load.load_format == "dummy"
    weights = None if draft is None or is_dummy else _weights(draft, config.draft_load_config or load)
    return [config.method, _inline(config.model), weights]
