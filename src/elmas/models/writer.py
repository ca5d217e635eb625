"""Write a model directory that vLLM and transformers load, without a download."""

import hashlib
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.numpy import save

from elmas.errors import UserError
from elmas.models import tokenizer
from elmas.models.presets import Preset
from elmas.models.weights import random_weights

MANIFEST = "elmas_model.json"
FORMAT_VERSION = 2
"""Raised whenever the same preset and seed would give other files than before."""

_ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}


@dataclass(frozen=True)
class WriteResult:
    """What `write_model` did."""

    directory: Path
    written: bool
    """False when the identical complete model was already there."""
    n_bytes: int
    """Size of all the model's files."""


def write_model(preset: Preset, directory: Path, seed: int = 0, force: bool = False) -> WriteResult:
    """Write `preset` to `directory`, which either becomes a complete model or stays as it was.

    An elmas model of another preset, seed or version is replaced. Raises UserError when `directory` is a file, or holds
    something that is not an elmas model and `force` is False.
    """
    directory = Path(directory)
    recipe = _recipe(preset, seed)
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory} is a file: choose another directory")
    manifest = read_manifest(directory)
    if manifest is not None and manifest["recipe"] == recipe and _is_complete(directory, manifest):
        return WriteResult(directory, written=False, n_bytes=sum(manifest["files"].values()))
    if manifest is None and not force and directory.is_dir() and any(directory.iterdir()):
        raise UserError(f"{directory} is not empty and holds no elmas model: choose another directory or pass --force")

    target = directory.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, on the same file system, so that the last step is a rename.
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
        built = Path(scratch) / "new"
        built.mkdir()
        _write_files(preset, seed, built)
        files = {path.name: path.stat().st_size for path in sorted(built.iterdir())}
        _write_json(
            built / MANIFEST,
            {"format_version": FORMAT_VERSION, "preset": preset.name, "seed": seed, "recipe": recipe, "files": files},
        )
        if target.exists():
            target.rename(Path(scratch) / "old")
        built.rename(target)
    return WriteResult(directory, written=True, n_bytes=sum(files.values()))


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """Return the manifest of the elmas model in `directory`, or None when there is none that can be read."""
    try:
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        if isinstance(manifest["recipe"], str) and isinstance(manifest["files"], dict):
            return dict(manifest)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def hf_config(preset: Preset) -> dict[str, Any]:
    """Return the content of `config.json`, as published for the shape; only the end token is the project's own."""
    config: dict[str, Any] = {
        "architectures": [_ARCHITECTURES[preset.family]],
        "model_type": preset.family,
        "hidden_size": preset.hidden_size,
        "num_hidden_layers": preset.n_layers,
        "num_attention_heads": preset.n_heads,
        "num_key_value_heads": preset.n_kv_heads,
        "head_dim": preset.head_dim,
        "intermediate_size": preset.intermediate_size,
        "vocab_size": preset.vocab_size,
        "max_position_embeddings": preset.max_positions,
        "rope_theta": preset.rope_theta,
        "rope_scaling": None if preset.rope_scaling is None else dict(preset.rope_scaling),
        "rms_norm_eps": preset.rms_norm_eps,
        "tie_word_embeddings": preset.tied_embeddings,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "torch_dtype": preset.dtype,
        "use_cache": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.token_id(tokenizer.END),
        "pad_token_id": tokenizer.token_id(tokenizer.PAD),
    }
    if preset.family == "llama":
        config["mlp_bias"] = False
    return config


def _write_files(preset: Preset, seed: int, directory: Path) -> None:
    config = hf_config(preset)
    _write_json(directory / "config.json", config)
    ends = {key: config[key] for key in ("eos_token_id", "pad_token_id")}
    _write_json(directory / "generation_config.json", ends)
    tokenizer.write_tokenizer(directory, preset.max_positions)
    if preset.has_weights:
        tensors = dict(random_weights(preset, seed, tokenizer.output_ids()))
        (directory / "model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))


def _recipe(preset: Preset, seed: int) -> str:
    """Return a hash of all that decides the bytes of the files."""
    parts = [FORMAT_VERSION, asdict(preset), seed if preset.has_weights else 0, tokenizer.digest()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _is_complete(directory: Path, manifest: dict[str, Any]) -> bool:
    paths = [(directory / name, size) for name, size in manifest["files"].items()]
    return all(path.is_file() and path.stat().st_size == size for path, size in paths)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
