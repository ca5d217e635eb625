"""A working directory without `.env`, and the command line as a user starts it."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Elmas = Callable[..., "subprocess.CompletedProcess[str]"]

_SETTINGS = ("DEFAULT_", "OPENAI_API_KEY", "VLLM_", "HF_HUB_OFFLINE")


@pytest.fixture
def elmas(tmp_path: Path) -> Elmas:
    """Run `elmas ARGUMENTS` in tmp_path with a clean environment plus `environment`; returns the finished process."""

    def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        clean = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)}
        return subprocess.run(
            [sys.executable, "-c", "from elmas.cli import main; main()", *arguments],
            cwd=tmp_path,
            env={**clean, **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    """A directory that looks like a model from outside."""
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text("{}")
    return path


@pytest.fixture
def free_port() -> int:
    """A port that nothing listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
