"""Which weights a server has, told in a moment from the files they come from."""

import os
import re
from pathlib import Path

import xxhash

from elmas.errors import UserError

_WEIGHT_FILE = re.compile(r".*\.(safetensors|bin|pt|pth|gguf)|consolidated.*")
_PROCESSOR_FILE = re.compile(r"(pre)?processor_config\.json")
"""Counts with the weights: it decides what an image becomes before the model sees it."""

_BLOB_NAME = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_HEAD_BYTES = 1 << 20
"""Covers the header of a safetensors file in nearly all cases, and with it names, types and places of the tensors."""
_SAMPLE_BYTES = 64 << 10
_N_SAMPLES = 16


def find_model_directory(model: str, revision: str | None, cache_dir: str | None) -> Path:
    """Return the directory (or single file) with the model's weights: itself, or its snapshot in the hub's cache.

    Raises UserError when the model is neither here nor in the cache.
    """
    path = Path(model).expanduser()
    if path.exists():
        return path
    # Imported here: a model directory does not need it.
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for name in ("config.json", "params.json"):
        try:
            cached = try_to_load_from_cache(model, name, cache_dir=cache_dir, revision=revision)
        except HFValidationError:
            break
        if isinstance(cached, str):
            return Path(cached).parent
    raise UserError(f"cannot tell which weights {model} stands for: drop --disk, or serve a model directory")


def weights_identity(model_dir: Path) -> str:
    """Return a digest that differs between model directories (or single files) with different weights.

    A link into a hub's cache counts with its blob's name, which is a hash of the content. Of any other file name, size,
    time of change, head and evenly spread samples count: only a file that was changed in place between the samples and
    had its time set back goes unnoticed. Raises UserError when there are no weights or they cannot be read.
    """
    try:
        files = [path for path in model_dir.iterdir() if path.is_file()] if model_dir.is_dir() else [model_dir]
        weights = sorted(path for path in files if _WEIGHT_FILE.fullmatch(path.name))
        processors = sorted(path for path in files if _PROCESSOR_FILE.fullmatch(path.name))
        facts = [f"{path.name} {_file_identity(path)}" for path in weights + processors]
    except OSError as error:
        raise UserError(f"cannot read the weights in {model_dir} ({error.strerror}): drop --disk, or mend it") from None
    if not weights:
        raise UserError(f"{model_dir} has no weights that can be identified: drop --disk, or serve another directory")
    return xxhash.xxh3_128_hexdigest("\n".join(facts).encode())


def _file_identity(path: Path) -> str:
    if path.is_symlink():
        blob = path.resolve()
        if blob.parent.name == "blobs" and _BLOB_NAME.fullmatch(blob.name):
            return blob.name
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        content = xxhash.xxh3_128(os.pread(fd, _HEAD_BYTES, 0))
        span = max(0, status.st_size - _HEAD_BYTES - _SAMPLE_BYTES)
        for number in range(_N_SAMPLES):
            content.update(os.pread(fd, _SAMPLE_BYTES, _HEAD_BYTES + span * number // (_N_SAMPLES - 1)))
    finally:
        os.close(fd)
    return f"{status.st_size} {status.st_mtime_ns} {content.hexdigest()}"
