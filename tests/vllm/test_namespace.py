"""What is stored belongs to one model, precision and layout: anything that changes KV bytes changes the facts."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec

from elmas.errors import UserError
from elmas.tiers.disk.format import PAGE_BYTES, Namespace
from elmas.vllm.geometry import geometry_of
from elmas.vllm.namespace import namespace_facts, row_layout
from elmas.vllm.weights_identity import find_model_directory, weights_identity

GEOMETRY = {"block_bytes": [4096], "segments": [[2048, 2048]], "row_bytes": 4096, "row_layout": ["0" * 32]}
NONE_HASH = bytes(32)
FREE_BYTES = 512


@pytest.fixture(scope="module")
def model(model_shape: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with a weight file that nothing but its identity depends on."""
    directory = tmp_path_factory.mktemp("namespace") / "model"
    shutil.copytree(model_shape, directory)
    save_file({"w": np.arange(64, dtype=np.float32)}, directory / "model.safetensors")
    return directory


def make_configs(model: Path | str, block_size: int = 32, **changes: Any) -> tuple[Any, KVCacheConfig]:
    arguments = {"dtype": "float32", "block_size": 32, "max_model_len": 128, "enforce_eager": True, **changes}
    config = EngineArgs(model=str(model), **arguments).create_engine_config()
    spec = FullAttentionSpec(block_size=block_size, num_kv_heads=1, head_size=8, dtype=config.model_config.dtype)
    group = KVCacheGroupSpec(["layer"], spec)
    return config, KVCacheConfig(num_blocks=8, kv_cache_tensors=[], kv_cache_groups=[group])


def facts_of(model: Path | str, block_size: int = 32, **changes: Any) -> dict[str, Any]:
    return namespace_facts(*make_configs(model, block_size, **changes), GEOMETRY, NONE_HASH)


@pytest.fixture(scope="module")
def base(model: Path) -> dict[str, Any]:
    return facts_of(model)


def changed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if before[name] != after[name]}


def test_the_same_server_started_again_has_the_same_facts(model: Path, base: dict[str, Any]) -> None:
    assert facts_of(model) == base
    assert facts_of(model, max_num_seqs=7, max_model_len=256, served_model_name="other") == base
    assert json.loads(json.dumps(base)) == base


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"dtype": "bfloat16"}, {"dtype", "kv_cache_group"}),
        ({"block_size": 64}, {"block_size", "kv_cache_group"}),
        ({"hf_overrides": {"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}}, {"config"}),
        ({"revision": "v2"}, {"revision"}),
        ({"prefix_caching_hash_algo": "sha256_cbor"}, {"hash"}),
        ({"load_format": "dummy"}, {"load_format", "weights"}),
    ],
)
def test_whatever_changes_kv_bytes_changes_the_facts(
    model: Path, base: dict[str, Any], changes: dict[str, Any], names: set[str]
) -> None:
    assert changed(base, facts_of(model, **changes)) == names


def test_layout_and_root_hash_are_facts(model: Path, base: dict[str, Any]) -> None:
    configs = make_configs(model)
    assert changed(base, namespace_facts(*configs, GEOMETRY, b"\1" * 32)) == {"none_hash"}
    assert changed(base, namespace_facts(*configs, {**GEOMETRY, "row_bytes": 8192}, NONE_HASH)) == {"geometry"}


def test_facts_fit_a_header_page_whatever_is_in_them(model: Path, tmp_path: Path, base: dict[str, Any]) -> None:
    deep = tmp_path / ("d" * 200) / ("e" * 200)
    shutil.copytree(model, deep)
    layout = {**GEOMETRY, "segments": [[16384] * 200] * 8, "row_layout": ["0" * 32] * 8}
    config, cache = make_configs(deep, revision="r" * 300, hf_overrides={"note": "n" * 9000})
    config.cache_config.kv_cache_dtype_skip_layers = [str(layer) for layer in range(200)]
    config.model_config.quantization_config = {"ignored": ["layer"] * 200}
    config.speculative_config = SimpleNamespace(method="eagle3", model=str(deep), draft_model_config=None)
    facts = namespace_facts(config, cache, layout, NONE_HASH)
    assert len(Namespace(facts).text) <= PAGE_BYTES - FREE_BYTES
    shorter = {**layout, "segments": [[16384] * 199] * 8}
    assert changed(facts, namespace_facts(config, cache, shorter, NONE_HASH)) == {"geometry"}


def test_dummy_weights_need_no_files_and_differ_by_seed(model_shape: str) -> None:
    one, other = (facts_of(model_shape, load_format="dummy", seed=seed) for seed in (0, 1))
    assert changed(one, other) == {"weights"}


def test_weights_that_cannot_be_identified_mean_no_disk(model: Path, model_shape: str) -> None:
    with pytest.raises(UserError, match="no weights that can be identified: drop --disk"):
        facts_of(model_shape)
    config, cache = make_configs(model)
    config.model_config.model_weights = "s3://bucket/model"
    with pytest.raises(UserError, match="which weights s3://bucket/model stands for: drop --disk"):
        namespace_facts(config, cache, GEOMETRY, NONE_HASH)
    config, cache = make_configs(model)
    config.load_config.load_format = "tensorizer"
    with pytest.raises(UserError, match="load format tensorizer"):
        namespace_facts(config, cache, GEOMETRY, NONE_HASH)


def test_a_draft_models_weights_count(model: Path, tmp_path: Path) -> None:
    draft = tmp_path / "draft"
    draft.mkdir()
    (draft / "model.safetensors").write_bytes(b"one")
    config, cache = make_configs(model)
    draft_config = SimpleNamespace(model=str(draft), model_weights="", revision=None)
    config.speculative_config = SimpleNamespace(
        method="eagle", model=str(draft), draft_model_config=draft_config, draft_load_config=None
    )
    before = namespace_facts(config, cache, GEOMETRY, NONE_HASH)
    (draft / "model.safetensors").write_bytes(b"two")
    assert changed(before, namespace_facts(config, cache, GEOMETRY, NONE_HASH)) == {"speculative"}


# Weights


def write_weights(path: Path, n_bytes: int) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(n_bytes))
    os.utime(path, ns=(0, 0))


@pytest.mark.parametrize("place", [0, 100_000, -1])
def test_changed_content_is_another_identity_even_with_the_old_time(tmp_path: Path, place: int) -> None:
    path = tmp_path / "model-00001-of-00001.safetensors"
    write_weights(path, 4 << 20)
    before = weights_identity(tmp_path)
    assert weights_identity(tmp_path) == before
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(0, 0))
    assert weights_identity(tmp_path) != before


def test_time_name_size_and_number_of_files_count(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_weights(path, 1000)
    identities = [weights_identity(tmp_path)]
    os.utime(path, ns=(0, 1))
    identities.append(weights_identity(tmp_path))
    path.rename(tmp_path / "b.safetensors")
    identities.append(weights_identity(tmp_path))
    write_weights(tmp_path / "c.bin", 1000)
    identities.append(weights_identity(tmp_path))
    (tmp_path / "preprocessor_config.json").write_text("{}")
    identities.append(weights_identity(tmp_path))
    assert len(set(identities)) == len(identities)
    (tmp_path / "tokenizer.json").write_text("{}")
    assert weights_identity(tmp_path) == identities[-1]


def test_a_hub_snapshot_is_known_by_the_names_of_its_blobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = tmp_path / "models--org--name"
    snapshot = repository / "snapshots" / ("a" * 40)
    (repository / "blobs").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    snapshot.mkdir(parents=True)
    for name, blob in (("config.json", "b" * 40), ("model.safetensors", "c" * 64)):
        write_weights(repository / "blobs" / blob, 100)
        (snapshot / name).symlink_to(Path("../../blobs") / blob)
    found = find_model_directory("org/name", None, str(tmp_path))
    assert found == snapshot
    before = weights_identity(found)
    os.utime(repository / "blobs" / ("c" * 64))  # a download that was repeated
    assert weights_identity(found) == before
    (repository / "blobs" / ("c" * 64)).rename(repository / "blobs" / ("d" * 64))
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to(Path("../../blobs") / ("d" * 64))
    assert weights_identity(found) != before
    with pytest.raises(UserError, match="which weights org/other stands for"):
        find_model_directory("org/other", None, str(tmp_path))


# Layout of a row


def layout_of(layers: dict[str, torch.Tensor], n_blocks: int) -> str:
    return row_layout(layers, geometry_of(layers, n_blocks))


def split(n_blocks: int, names: tuple[str, str]) -> dict[str, torch.Tensor]:
    """Two layers in one buffer, one after the other, called `names` in the order of their addresses."""
    both = torch.zeros(2, n_blocks, 2, 4, 8)
    return {name: both[names.index(name)] for name in sorted(names)}


def test_layers_in_another_order_of_addresses_are_another_layout() -> None:
    assert layout_of(split(4, ("a", "b")), 4) == layout_of(split(4, ("a", "b")), 4)
    assert layout_of(split(4, ("a", "b")), 4) != layout_of(split(4, ("b", "a")), 4)


def test_the_number_of_blocks_is_no_part_of_the_layout() -> None:
    assert layout_of(split(4, ("a", "b")), 4) == layout_of(split(6, ("a", "b")), 6)
    packed = {n: torch.zeros(n, 2, 2, 4, 8) for n in (4, 6)}
    of_packed = [layout_of({"a": both[:, 0], "b": both[:, 1]}, n) for n, both in packed.items()]
    assert of_packed[0] == of_packed[1]


def test_heads_before_tokens_is_another_layout_of_the_same_size() -> None:
    tokens_first = torch.zeros(4, 2, 4, 8)
    heads_first = torch.zeros(4, 4, 2, 8).transpose(1, 2)
    assert tokens_first.shape == heads_first.shape
    assert layout_of({"a": tokens_first}, 4) != layout_of({"a": heads_first}, 4)


def test_element_type_is_part_of_the_layout() -> None:
    shape = (4, 2, 4, 8)
    halves = [torch.zeros(shape, dtype=dtype) for dtype in (torch.float16, torch.bfloat16)]
    assert layout_of({"a": halves[0]}, 4) != layout_of({"a": halves[1]}, 4)
