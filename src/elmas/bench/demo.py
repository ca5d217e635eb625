"""The demo: the same guessing game on two servers, one with vLLM's own prefix caching and one with MT-APC.

The device cache is made so small that the conversations of all participants are about three times its size: what a GPU
shows with hundreds of agents, a laptop shows with tens. Both servers get the same model, the same sizes, the same
control connector overhead and the same first messages; later messages depend on the answers, so the demo also says
whether both games went the same way.
"""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from elmas.agents.endpoint import Endpoint
from elmas.agents.guessing.game import GameResult, GameSettings
from elmas.agents.guessing.play import play
from elmas.agents.model import Model
from elmas.bench.arms import (
    BLOCK_SIZE,
    MODEL_NAME,
    ServerShape,
    arm_command,
    running_server,
)
from elmas.bench.counters import PromptTokens, read_counters
from elmas.bench.machine import Usage, UsageMeter, describe_machine, describe_versions
from elmas.bench.progress import RunProgress
from elmas.bench.summary import Metrics, job_completion_time_s, summarise
from elmas.errors import UserError

ARMS = ("noop", "mt-apc")
"""The control first."""

MAX_MODEL_LEN = 4096
_MAX_RUNNING = 12
_WARM_UP_PARTICIPANTS = 4


@dataclass(frozen=True)
class DemoRun:
    """One game on one server."""

    arm: str
    ready_s: float
    """From the start of the server until it answered."""
    game: GameResult
    tokens: PromptTokens
    """What the server counted during the game."""
    usage: Usage

    @property
    def summary(self) -> Metrics:
        """The client's figures over all calls."""
        return summarise(self.game.records)

    @property
    def seconds_per_round(self) -> list[float]:
        """Seconds of each round."""
        return [job_completion_time_s(each.records) for each in self.game.rounds]

    @property
    def ttft_per_round_s(self) -> list[float]:
        """Mean time to first token of each round, in seconds."""
        spreads = [summarise(each.records).ttft for each in self.game.rounds]
        return [math.nan if spread is None else spread.mean_s for spread in spreads]


@dataclass(frozen=True)
class DemoResult:
    """Both games and what their servers were."""

    shape: ServerShape
    runs: tuple[DemoRun, ...]
    commands: dict[str, str]

    @property
    def ratio(self) -> float:
        """The control's JCT over the JCT with MT-APC: above 1 MT-APC is faster."""
        control, cached = self.runs
        return control.summary.jct_s / cached.summary.jct_s

    @property
    def verdict(self) -> str:
        """Whether the two games went the same way, in one line."""
        control, cached = (run.game.guesses for run in self.runs)
        n_all = sum(len(each) for each in control)
        n_same = sum(
            mine == yours
            for left, right in zip(control, cached, strict=True)
            for mine, yours in zip(left, right, strict=True)
        )
        return (
            f"all {n_all} guesses are the same on both servers"
            if n_same == n_all
            else (f"{n_same} of {n_all} guesses are the same on both servers")
        )

    def to_json(self) -> dict[str, Any]:
        """Return everything that was set and measured as plain values."""
        return {
            "benchmark": "demo",
            "ratio": self.ratio,
            "guesses": self.verdict,
            "machine": describe_machine(),
            "versions": describe_versions(),
            "server": {**asdict(self.shape), "model": str(self.shape.model), "block_size": BLOCK_SIZE},
            "commands": self.commands,
            "runs": [
                {
                    "arm": run.arm,
                    "ready_s": run.ready_s,
                    "summary": asdict(run.summary),
                    "prompt_tokens_by_source": asdict(run.tokens),
                    "hit_rates": asdict(run.tokens.rates),
                    "usage": asdict(run.usage),
                    "seconds_per_round": run.seconds_per_round,
                    "game": run.game.to_json(),
                }
                for run in self.runs
            ],
        }


def demo_shape(
    model: Path,
    n_device_blocks: int,
    host_memory: str,
    port: int | None = None,
    vllm_arguments: Sequence[str] = (),
) -> ServerShape:
    """Return the server that the demo plays on; raises UserError for a device cache that cannot hold one request."""
    shape = ServerShape(
        model=model,
        n_device_blocks=n_device_blocks,
        max_model_len=MAX_MODEL_LEN,
        host_memory=host_memory,
        max_running=_MAX_RUNNING,
        port=port,
        vllm_arguments=tuple(vllm_arguments),
    )
    shape.check()
    return shape


def run_demo(shape: ServerShape, settings: GameSettings, log_directory: Path, progress: RunProgress) -> DemoResult:
    """Play the game on both servers, one after the other.

    Raises UserError when a server does not start, or when not one call of a game was answered.
    """
    runs = []
    commands = {}
    for arm in ARMS:
        command = arm_command(arm, shape)
        commands[arm] = command.shell_line()
        progress.stage(f"{arm}: starting the server")
        with running_server(command, log_directory / f"demo-{arm}.log") as (server, ready_s):
            progress.stage(f"{arm}: warming up")
            # Another seed, so that what is measured finds nothing of this but the rules, which the reset drops as well.
            warm_up = GameSettings(_WARM_UP_PARTICIPANTS, 1, seed=settings.seed + 1)
            asyncio.run(_play(server.base_url, warm_up, None, arm))
            server.reset_caches()
            before = read_counters(server.metrics())
            meter = UsageMeter()
            game = asyncio.run(_play(server.base_url, settings, progress, arm))
            usage = meter.stop()
            if len(game.failures) == settings.n_participants * settings.n_rounds:
                raise UserError(f"{arm}: no call was answered, the last one failed with: {game.failures[-1][2]}")
            tokens = read_counters(server.metrics()) - before
        runs.append(DemoRun(arm, ready_s, game, tokens, usage))
    return DemoResult(shape, tuple(runs), commands)


async def _play(base_url: str, settings: GameSettings, progress: RunProgress | None, arm: str) -> GameResult:
    def on_round(index: int) -> None:
        if progress is not None:
            progress.stage(f"{arm}: round {index + 1} of {settings.n_rounds}", settings.n_participants)

    # All at once: a queue in the client would hide what the server's order of waiting requests is worth.
    async with Model(Endpoint(base_url, MODEL_NAME), max_concurrent=settings.n_participants) as model:
        return await play(settings, model, on_round, progress.advance if progress is not None else None)
