"""What the connector cannot serve is refused at start, with what to change."""

from typing import Any

from vllm.v1.kv_cache_interface import FullAttentionSpec

from elmas.errors import UserError


def check_supported(vllm_config: Any, kv_cache_config: Any) -> None:
    """Raise UserError for a model or a parallel shape whose blocks the host tier would get wrong."""
    groups = kv_cache_config.kv_cache_groups
    if len(groups) != 1 or not isinstance(groups[0].kv_cache_spec, FullAttentionSpec):
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
