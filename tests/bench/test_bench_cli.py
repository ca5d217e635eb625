"""`elmas bench`: mistakes are told in one line, before anything is started."""

import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from elmas.bench.arms import ServerShape, arm_command, ensure_tiny_model
from elmas.cli import bench
from elmas.errors import UserError


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(bench, list(arguments))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "tiny"
    ensure_tiny_model(directory)
    return directory


def shape(model: Path, port: int | None = None, host_memory: str = "64MiB") -> ServerShape:
    return ServerShape(model, 128, 2048, host_memory, max_running=4, port=port)


def test_help_names_the_benchmarks() -> None:
    text = invoke("--help").output
    for name in ("run", "experiments", "gpu", "summary", "demo"):
        assert name in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--agents", "0"], "at least one participant"),
        (["demo", "--num-gpu-blocks", "10"], "--num-gpu-blocks"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    error = invoke(*arguments).exception
    assert isinstance(error, UserError)
    assert message in str(error)
    assert "\n" not in str(error)


def test_a_busy_port_is_one_line(tiny_model: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(UserError, match=r"port \d+ .*in use"):
            arm_command("noop", shape(tiny_model, other.getsockname()[1]))


def test_too_much_host_memory_is_one_line(tiny_model: Path) -> None:
    with pytest.raises(UserError, match="host memory of"):
        arm_command("mt-apc", shape(tiny_model, host_memory="900TiB"))


def test_a_directory_without_a_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json"):
        arm_command("noop", shape(tmp_path))


def test_arms_differ_in_nothing_but_the_arm(tiny_model: Path) -> None:
    noop, cached = (arm_command(arm, shape(tiny_model, 1234)) for arm in ("noop", "mt-apc-only-async"))
    assert noop.environment == cached.environment
    assert set(noop.argv) - set(cached.argv) == {argument for argument in noop.argv if "ElmasNoopConnector" in argument}
    assert set(cached.argv) - set(noop.argv) == {argument for argument in cached.argv if "ElmasConnector" in argument}
