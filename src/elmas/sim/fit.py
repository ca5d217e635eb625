"""Fit a machine's few physical parameters to measured runs of closed loops.

Least squares on the logarithms of the seconds per round and of the JCT, by Gauss and Newton's steps with Levenberg's
damping, in the logarithms of the parameters: all are positive and known to a factor only.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elmas.sim.hardware import Hardware, hardware, hardware_data, model_shape
from elmas.sim.run import Outcome, Setup, simulate
from elmas.sim.waiting import OrderPlan
from elmas.sim.workloads import find_rounds
from elmas.units import parse_bytes

FITTED = ("flops_per_s", "attention_flops_per_s", "step_s", "request_s", "frontend_s")
"""The parameters that are fitted; copy and disk speeds were measured by themselves."""

_JCT_WEIGHT = 3.0
_STEP = 0.05
_MOST_CHANGE = 0.5


@dataclass(frozen=True)
class MeasuredRow:
    """A measured run: a closed loop on a server, its JCT and the seconds of its rounds."""

    workload: str
    connector: str
    host_memory: str | None
    keeps_answers: bool
    jct_s: float
    seconds_per_round: tuple[float, ...]
    window: int = 1
    """Waiting requests that were ordered together; 1: first come first served."""
    policy: str = "lru"
    """By which elmas kept blocks."""


@dataclass(frozen=True)
class Measured:
    """The measured rows of a machine, and the server that they were measured on."""

    model_shape: str
    n_device_blocks: int
    block_tokens: int
    max_batched_tokens: int
    max_running: int
    rows: tuple[MeasuredRow, ...]

    def setup(self, machine: Hardware, row: MeasuredRow) -> Setup:
        """Return the simulated server for a row."""
        return Setup(
            hardware=machine,
            shape=model_shape(self.model_shape),
            n_device_blocks=self.n_device_blocks,
            block_tokens=self.block_tokens,
            host_bytes=0 if row.host_memory is None else parse_bytes(row.host_memory, "host_memory"),
            policy=row.policy,
            connector=row.connector,
            order=OrderPlan(row.window),
            max_batched_tokens=self.max_batched_tokens,
            max_running=self.max_running,
        )

    def predict(self, machine: Hardware, row: MeasuredRow) -> Outcome:
        """Return what the simulator makes of a row."""
        return simulate(self.setup(machine, row), replace(find_rounds(row.workload), keeps_answers=row.keeps_answers))


def measured(hardware_name: str) -> Measured:
    """Return what was measured on a machine, from its data file. KeyError where nothing was."""
    data: dict[str, Any] = hardware_data(hardware_name)
    rows = tuple(
        MeasuredRow(**{**row, "seconds_per_round": tuple(row["seconds_per_round"])}) for row in data["measured"]["rows"]
    )
    return Measured(**{**data["measured"], "rows": rows})


def fit(hardware_name: str, n_rounds: int = 6, names: Sequence[str] = FITTED) -> Hardware:
    """Return the machine with the parameters `names` fitted to what was measured on it, from those of its data file."""
    rows, machine = measured(hardware_name), hardware(hardware_name)
    position = np.log([getattr(machine, name) for name in names])
    errors = _errors(rows, _with(machine, names, position))
    damping = 0.1
    for _ in range(n_rounds):
        slopes = np.empty((errors.size, len(names)))
        for i in range(len(names)):
            moved = position.copy()
            moved[i] += _STEP
            slopes[:, i] = (_errors(rows, _with(machine, names, moved)) - errors) / _STEP
        normal = slopes.T @ slopes
        change = np.linalg.solve(normal + damping * np.diag(np.diag(normal) + 1e-6), -slopes.T @ errors)
        candidate = position + np.clip(change, -_MOST_CHANGE, _MOST_CHANGE)
        candidate_errors = _errors(rows, _with(machine, names, candidate))
        if candidate_errors @ candidate_errors < errors @ errors:
            position, errors, damping = candidate, candidate_errors, damping / 3
        else:
            damping *= 10
    return _with(machine, names, position)


def fit_report(hardware_name: str, machine: Hardware) -> dict[str, Any]:
    """Return the parameters of a machine, and each measured row beside what the simulator makes of it with them."""
    rows = measured(hardware_name)
    compared = []
    for row in rows.rows:
        outcome = rows.predict(machine, row)
        compared.append(
            {
                **asdict(row),
                "predicted_jct_s": round(outcome.jct_s, 2),
                "predicted_seconds_per_round": [round(seconds, 2) for seconds in outcome.seconds_per_round],
                "error": round(outcome.jct_s / row.jct_s - 1, 4),
            }
        )
    return {"hardware": asdict(machine), "rows": compared}


def _with(machine: Hardware, names: Sequence[str], logarithms: NDArray[np.float64]) -> Hardware:
    return replace(machine, **dict(zip(names, np.exp(logarithms).tolist(), strict=True)))


def _errors(rows: Measured, machine: Hardware) -> NDArray[np.float64]:
    """Return the logarithms of predicted over measured seconds, the JCT's with more weight."""
    errors: list[float] = []
    for row in rows.rows:
        outcome = rows.predict(machine, row)
        errors.append(_JCT_WEIGHT * float(np.log(outcome.jct_s / row.jct_s)))
        errors += np.log(np.array(outcome.seconds_per_round) / np.array(row.seconds_per_round)).tolist()
    return np.array(errors)
