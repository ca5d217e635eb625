"""What cannot be served is refused at start."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm.v1.kv_cache_interface import (
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    KVCacheSpec,
    MambaSpec,
    MLAAttentionSpec,
    RSWASpec,
    SlidingWindowSpec,
)

from elmas.errors import UserError
from elmas.vllm.support import check_supported

SPEC = FullAttentionSpec(block_size=32, num_kv_heads=1, head_size=8, dtype=torch.float32)
CACHE = KVCacheConfig(num_blocks=8, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], SPEC)])


def config(extra: dict[str, Any], hash_algo: str = "sha256", **parallel: int) -> Any:
    return SimpleNamespace(
        cache_config=SimpleNamespace(prefix_caching_hash_algo=hash_algo),
        kv_transfer_config=SimpleNamespace(kv_connector_extra_config=extra),
        parallel_config=SimpleNamespace(**{"data_parallel_size": 1, "data_parallel_index": 0, **parallel}),
    )


SHAPE: dict[str, Any] = {"block_size": 32, "num_kv_heads": 1, "head_size": 8, "dtype": torch.float32}
WINDOW = SlidingWindowSpec(**SHAPE, sliding_window=64)
STATE = MambaSpec(block_size=32, shapes=((8,),), dtypes=(torch.float32,))


def cache(*specs: KVCacheSpec) -> KVCacheConfig:
    groups = [KVCacheGroupSpec([f"layer.{number}"], spec) for number, spec in enumerate(specs)]
    return KVCacheConfig(num_blocks=8, kv_cache_tensors=[], kv_cache_groups=groups)


@pytest.mark.parametrize("specs", [(WINDOW,), (SPEC, WINDOW), (SPEC, STATE), (RSWASpec(**SHAPE, rswa_window=64),)])
def test_blocks_that_do_not_stay_what_they_are_are_refused(specs: tuple[KVCacheSpec, ...]) -> None:
    with pytest.raises(UserError, match=f"has the groups.*{type(specs[-1]).__name__}: elmas caches models with full"):
        check_supported(config({}), cache(*specs))


def test_full_and_latent_attention_are_served() -> None:
    for spec in (SPEC, MLAAttentionSpec(**SHAPE)):
        check_supported(config({}), cache(spec))


def test_engines_cannot_share_a_disk() -> None:
    disk = {"disk": "/kv", "disk_capacity": "1GiB"}
    check_supported(config(disk), CACHE)
    check_supported(config({}, data_parallel_size=2), CACHE)
    # vLLM gives the engines of a dense model a size of one and the index that they had.
    for parallel in ({"data_parallel_size": 2}, {"data_parallel_index": 1}):
        with pytest.raises(UserError, match="give each engine its own server and directory"):
            check_supported(config(disk, **parallel), CACHE)


def test_a_disk_needs_hashes_that_do_not_collide() -> None:
    disk = {"disk": "/kv", "disk_capacity": "1GiB"}
    check_supported(config(disk, "sha256_cbor"), CACHE)
    check_supported(config({}, "xxhash"), CACHE)
    with pytest.raises(UserError, match="drop --prefix-caching-hash-algo, or choose sha256"):
        check_supported(config(disk, "xxhash_cbor"), CACHE)


def test_pipeline_parallelism_is_refused() -> None:
    with pytest.raises(UserError, match="--pipeline-parallel-size above 1"):
        check_supported(config({}, pipeline_parallel_size=2), CACHE)
