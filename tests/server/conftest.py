"""One MT-APC server for all server tests: small device cache, room in host memory."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from elmas.bench.arms import ServerShape, arm_command, ensure_tiny_model, running_server
from elmas.serve.process import ServerProcess

N_DEVICE_BLOCKS = 130


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with its weights."""
    directory = tmp_path_factory.mktemp("model") / "tiny"
    ensure_tiny_model(directory)
    return directory


@pytest.fixture(scope="session")
def shape(tiny_model: Path) -> ServerShape:
    """A device cache of 129 blocks of 32 tokens, requests of up to 3,200 tokens, chunks of 512."""
    return ServerShape(
        tiny_model,
        n_device_blocks=N_DEVICE_BLOCKS,
        max_model_len=3200,
        host_memory="1GiB",
        max_running=8,
        vllm_arguments=("--max-num-batched-tokens", "512"),
    )


@pytest.fixture(scope="session")
def server(shape: ServerShape, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A running server of the arm mt-apc."""
    with running_server(arm_command("mt-apc", shape), tmp_path_factory.mktemp("log") / "server.log") as (process, _):
        yield process
