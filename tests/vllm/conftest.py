"""Fixtures of the adapter's tests."""

from pathlib import Path

import pytest

from elmas.models.presets import find_preset
from elmas.models.writer import write_model


@pytest.fixture(scope="session")
def model_shape(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model directory with configuration and tokenizer only: enough for vLLM's configuration."""
    directory: Path = tmp_path_factory.mktemp("models") / "shape"
    write_model(find_preset("llama-3.2-1b"), directory, seed=0, force=False)
    return str(directory)
