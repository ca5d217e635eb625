"""A model directory is complete or absent, deterministic, and never written over foreign files."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoTokenizer

from elmas.cli.model import model
from elmas.errors import UserError
from elmas.models import writer
from elmas.models.presets import PRESETS, Preset
from elmas.models.writer import MANIFEST, hf_config, read_manifest, write_model

SMALL = replace(PRESETS["tiny"], hidden_size=64, n_layers=1, n_heads=2, n_kv_heads=1, head_dim=32, intermediate_size=96)
SHAPES = [preset for preset in PRESETS.values() if not preset.has_weights]


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_model(SMALL, tmp_path / name, seed=seed)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "c")]
    assert weights[0] != weights[1]


def test_an_identical_model_is_left_alone(tmp_path: Path) -> None:
    first = write_model(SMALL, tmp_path / "m")
    second = write_model(SMALL, tmp_path / "m")
    assert (first.written, second.written) == (True, False)
    assert first.n_bytes == second.n_bytes


def test_a_damaged_or_different_model_is_replaced(tmp_path: Path) -> None:
    directory = tmp_path / "m"
    write_model(SMALL, directory)
    complete = contents(directory)
    (directory / "model.safetensors").write_bytes(b"short")
    assert write_model(SMALL, directory).written
    assert contents(directory) == complete
    assert write_model(SMALL, directory, seed=5).written
    manifest = read_manifest(directory)
    assert manifest is not None
    assert manifest["seed"] == 5


def test_an_interrupted_write_leaves_the_old_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "m"
    write_model(SMALL, directory)
    before = contents(directory)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writer, "random_weights", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_model(SMALL, directory, seed=1)
    assert contents(directory) == before
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_foreign_files_are_safe_without_force(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="choose another directory or pass --force"):
        write_model(SMALL, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_force_replaces_a_directory(tmp_path: Path) -> None:
    directory = tmp_path / "m"
    directory.mkdir()
    (directory / "old.txt").write_text("old")
    assert write_model(SMALL, directory, force=True).written
    assert not (directory / "old.txt").exists()


def test_an_empty_directory_needs_no_force_and_a_file_is_refused(tmp_path: Path) -> None:
    assert write_model(SMALL, tmp_path).written
    with pytest.raises(UserError, match="is a file"):
        write_model(SMALL, tmp_path / MANIFEST)


@pytest.mark.parametrize("preset", SHAPES, ids=lambda preset: preset.name)
def test_a_shape_loads_and_has_no_weights(preset: Preset, tmp_path: Path) -> None:
    directory = tmp_path / "m"
    write_model(preset, directory)
    assert not list(directory.glob("*.safetensors"))
    config = AutoConfig.from_pretrained(directory)
    assert config.num_hidden_layers == preset.n_layers
    assert config.num_key_value_heads == preset.n_kv_heads
    assert config.head_dim == preset.head_dim
    assert config.max_position_embeddings == preset.max_positions
    assert config.rope_parameters["rope_theta"] == preset.rope_theta
    assert config.tie_word_embeddings == preset.tied_embeddings
    assert str(config.dtype) == "torch.bfloat16"
    assert len(AutoTokenizer.from_pretrained(directory)) < config.vocab_size


def test_scaled_rotary_positions_reach_the_config() -> None:
    config = hf_config(PRESETS["llama-3.2-1b"])
    assert config["rope_scaling"]["factor"] == 32.0
    assert config["rope_scaling"]["original_max_position_embeddings"] == 8192
    assert json.loads(json.dumps(config)) == config


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        model("tiny", tmp_path / "file" / "below")
