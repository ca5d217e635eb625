"""What the connector cannot serve is refused at start, with what to change."""

from typing import Any

from vllm.v1.kv_cache_interface import FullAttentionSpec, MLAAttentionSpec

from elmas.errors import UserError

_SUPPORTED = (FullAttentionSpec, MLAAttentionSpec)
"""Kinds of KV cache whose blocks stay what they are as long as they are cached. Exactly these: vLLM has kinds derived
from them that give blocks up in the middle of a request, or hold something else than KV."""

SHARED_DISK = (
    "the disk tier cannot be shared by the engines of --data-parallel-size: "
    "give each engine its own server and directory"
)

SHORT_HASHES = (
    "the disk tier needs block hashes that never collide and outlive the server: "
    "drop --prefix-caching-hash-algo, or choose sha256"
)


def check_supported(vllm_config: Any, kv_cache_config: Any) -> None:
    """Raise UserError for a model or a parallel shape whose blocks the host tier would get wrong."""
    groups = kv_cache_config.kv_cache_groups
    if len(groups) != 1 or type(groups[0].kv_cache_spec) not in _SUPPORTED:
        kinds = ", ".join(type(group.kv_cache_spec).__name__ for group in groups)
        raise UserError(
            f"the model's KV cache has the groups {kinds}: elmas caches models with full attention only; "
            "serve this model without ElmasConnector"
        )
    parallel = vllm_config.parallel_config
    for name, flag in (
        ("pipeline_parallel_size", "--pipeline-parallel-size"),
        ("decode_context_parallel_size", "--decode-context-parallel-size"),
        ("prefill_context_parallel_size", "--prefill-context-parallel-size"),
        ("nnodes", "--nnodes"),
    ):
        if getattr(parallel, name, 1) > 1:
            raise UserError(f"elmas cannot serve with {flag} above 1: use tensor parallelism on one host")
    if vllm_config.kv_transfer_config.kv_connector_extra_config.get("disk") is None:
        return
    # vLLM tells the engines of a dense model that they are alone; their index still gives all but the first away.
    if parallel.data_parallel_size > 1 or parallel.data_parallel_index > 0:
        raise UserError(SHARED_DISK)
    if not vllm_config.cache_config.prefix_caching_hash_algo.startswith("sha256"):
        raise UserError(SHORT_HASHES)
