"""The simulator against what was measured on machines."""

import pytest

from elmas.sim.fit import fit_report
from elmas.sim.hardware import HARDWARE_NAMES, hardware, model_shape, step_cost
from elmas.sim.run import Setup, simulate
from elmas.sim.waiting import OrderPlan
from elmas.sim.workloads import find_rounds


def test_the_measured_rows_of_the_h200_are_predicted_within_15_percent() -> None:
    rows = fit_report("h200", hardware("h200"))["rows"]
    assert len(rows) == 6
    for row in rows:
        assert abs(row["error"]) < 0.15, row
        # Rounds are short, and one measurement each: none may be off by more than a quarter.
        pairs = zip(row["predicted_seconds_per_round"], row["seconds_per_round"], strict=True)
        assert all(abs(predicted / seconds - 1) < 0.25 for predicted, seconds in pairs), row


@pytest.mark.parametrize(("workload", "measured_jct_s"), [("A", 17.7), ("B", 42.65), ("C", 43.08)])
def test_rows_that_were_not_fitted_are_predicted_too(workload: str, measured_jct_s: float) -> None:
    """An H100 with elmas: host memory of 20 GiB, its own order, histories without the model's answers."""
    setup = Setup(
        hardware("h100"), model_shape("llama-3-8b"), 4096, host_bytes=20 << 30, policy="lru", order=OrderPlan(64)
    )
    assert simulate(setup, find_rounds(workload)).jct_s == pytest.approx(measured_jct_s, rel=0.15)


@pytest.mark.parametrize("name", HARDWARE_NAMES)
@pytest.mark.parametrize("shape", ["llama-3-8b", "tiny"])
def test_more_work_takes_longer_on_every_machine(name: str, shape: str) -> None:
    cost = step_cost(hardware(name), model_shape(shape))
    least = cost.seconds(0, 0, 1, 1, 1000)
    assert 0 < least < cost.seconds(0, 0, 1, 1, 100_000)
    assert cost.seconds(1000, 0, 1, 0, 0) < cost.seconds(8000, 0, 1, 0, 0) < cost.seconds(8000, 10**8, 1, 0, 0)
