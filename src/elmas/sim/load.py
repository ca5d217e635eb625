"""How long rounds of agents take as their number grows: the same rounds on several servers, simulated."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from elmas.errors import UserError
from elmas.sim.run import Setup, simulate
from elmas.sim.waiting import OrderPlan
from elmas.sim.workloads import Rounds

_WHOLE_QUEUE = 10_000
_ENDLESS_BLOCKS = 1 << 20


@dataclass(frozen=True)
class LoadPoint:
    """Rounds of so many agents on one server: the seconds they took, and the share of prompt tokens hit per tier."""

    arm: str
    n_agents: int
    jct_s: float
    ttft_mean_s: float
    device_share: float
    host_share: float


def load_arms(base: Setup) -> dict[str, Setup]:
    """Return the servers that are compared, by name, with the sizes of `base`."""
    ordered = OrderPlan(window_size=_WHOLE_QUEUE)
    return {
        "prefix caching only": replace(base, host_bytes=0),
        "lru, first come first served": replace(base, policy="lru", order=OrderPlan()),
        "next-use, first come first served": replace(base, policy="next-use", order=OrderPlan()),
        "next-use, ordered": replace(base, policy="next-use", order=ordered),
        "endless host memory": replace(
            base, host_bytes=_ENDLESS_BLOCKS * base.block_bytes, policy="lru", order=ordered
        ),
    }


def sweep_load(
    base: Setup, rounds: Rounds, agents: Sequence[int], report: Callable[[LoadPoint], None]
) -> list[LoadPoint]:
    """Play `rounds` with each number of agents on each server. UserError without a number, or for one below 1."""
    if not agents or min(agents) < 1:
        raise UserError("--agents needs numbers of agents such as 80,160,320")
    points = []
    for n_agents in agents:
        for name, setup in load_arms(base).items():
            outcome = simulate(setup, replace(rounds, n_agents=n_agents))
            counts, ttft = outcome.records.counts, outcome.ttft
            assert ttft is not None
            n_tokens = counts.n_prompt_tokens
            device_share, host_share = counts.n_device_tokens / n_tokens, counts.n_host_tokens / n_tokens
            points.append(LoadPoint(name, n_agents, outcome.jct_s, ttft.mean_s, device_share, host_share))
            report(points[-1])
    return points


def to_json(base: Setup, rounds: Rounds, points: Sequence[LoadPoint]) -> dict[str, Any]:
    """Return the sweep as it is written to a file."""
    return {
        "benchmark": "load",
        "hardware": base.hardware.name,
        "model_shape": base.shape.name,
        "device_blocks": base.n_device_blocks,
        "block_tokens": base.block_tokens,
        "host_bytes": base.host_bytes,
        "rounds": {key: value for key, value in vars(rounds).items() if key != "n_agents"},
        "points": [vars(point) for point in points],
    }
