"""vLLM's scheduler with a connector and without a worker: what the tests drive and the scheduler benchmark times."""

from typing import Any

from vllm import SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.lora.request import LoRARequest
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

from elmas.tiers.host import ROW_ALIGNMENT_BYTES, HostRegion, RegionHandle
from elmas.vllm.metadata import Handshake
from elmas.vllm.plugin import register
from elmas.vllm.session_half import HINTS_KEY


def make_bare_scheduler(
    model: str,
    *,
    connector: str | None,
    settings: dict[str, Any],
    block_size: int,
    n_device_blocks: int,
    n_host_rows: int,
    max_num_seqs: int,
    max_batched_tokens: int,
    max_model_len: int,
    is_pipelined: bool = False,
    scheduler_class: Any = None,
    region: HostRegion | None = None,
) -> Any:
    """Return a scheduler for a model directory, of which only the configuration is read.

    `connector` is a registered name or None. `scheduler_class` defaults to vLLM's own; `is_pipelined` means
    asynchronous scheduling, where the next step is scheduled before the last one is done. `region` is the host tier's
    memory, which a disk tier in `settings` needs; without it the tier has `n_host_rows` rows that nobody touches.
    """
    register()
    transfer = {
        "kv_connector": connector,
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": settings,
    }
    config = EngineArgs(
        model=model,
        dtype="float32",
        block_size=32,  # the platform's own; the scheduler below works with `block_size`
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_batched_tokens,
        enforce_eager=True,
        kv_transfer_config=transfer if connector else None,
    ).create_engine_config()
    config.scheduler_config.async_scheduling = is_pipelined
    config.cache_config.num_gpu_blocks = n_device_blocks
    spec = FullAttentionSpec(block_size=block_size, num_kv_heads=1, head_size=8, dtype=config.model_config.dtype)
    cache = KVCacheConfig(
        num_blocks=n_device_blocks, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)]
    )
    scheduler = (scheduler_class or (AsyncScheduler if is_pipelined else Scheduler))(
        vllm_config=config,
        kv_cache_config=cache,
        structured_output_manager=StructuredOutputManager(config),
        log_stats=True,
        block_size=block_size,
        hash_block_size=block_size,
    )
    if hasattr(scheduler.connector, "scheduler_half"):
        # Without a disk nobody maps the region, so none is needed.
        handle = region.handle if region is not None else RegionHandle(0, 0, n_host_rows, ROW_ALIGNMENT_BYTES)
        scheduler.connector.set_xfer_handshake_metadata({0: Handshake(handle, "bare", (ROW_ALIGNMENT_BYTES,))})
    return scheduler


class RequestMaker:
    """Makes requests with vLLM's own block hashes."""

    def __init__(self, block_size: int) -> None:
        init_none_hash(sha256)
        self._hasher = get_request_block_hasher(block_size, sha256)

    def make(
        self,
        name: str,
        prompt: list[int],
        n_tokens: int,
        salt: str | None = None,
        lora: str | None = None,
        arrival_time: float | None = None,
        session: str | None = None,
        hints: object = None,
    ) -> Any:
        """Return a greedy request that generates exactly `n_tokens`; `lora` is the name of an adapter, `hints` what the
        client says of the session."""
        extra = {"kv_transfer_params": {HINTS_KEY: hints}} if hints is not None else None
        parameters = SamplingParams(max_tokens=n_tokens, ignore_eos=True, temperature=0.0, extra_args=extra)
        parameters.update_from_generation_config({}, None)
        return Request(
            request_id=name,
            prompt_token_ids=prompt,
            sampling_params=parameters,
            pooling_params=None,
            cache_salt=salt,
            lora_request=LoRARequest(lora, 1, lora) if lora else None,
            arrival_time=arrival_time,
            session_id=session,
            block_hasher=self._hasher,
        )
