"""The simulator against what was measured on machines."""

import pytest

from elmas.sim.fit import fit_report
from elmas.sim.hardware import HARDWARE_NAMES, hardware, model_shape, step_cost


@pytest.mark.parametrize(("name", "n_rows"), [("h200", 15), ("h100", 3), ("cpu-2-cores", 2)])
def test_what_was_measured_is_predicted_within_15_percent(name: str, n_rows: int) -> None:
    """The rows of the H100 were not fitted to: its speeds are those of the H200, with a slower memory."""
    rows = fit_report(name, hardware(name))["rows"]
    assert len(rows) == n_rows
    for row in rows:
        assert abs(row["error"]) < 0.15, row
        # Rounds are short, and one measurement each: none may be off by more than a quarter.
        pairs = zip(row["predicted_seconds_per_round"], row["seconds_per_round"], strict=True)
        assert all(abs(predicted / seconds - 1) < 0.25 for predicted, seconds in pairs), row


@pytest.mark.parametrize("name", HARDWARE_NAMES)
@pytest.mark.parametrize("shape", ["llama-3-8b", "tiny"])
def test_more_work_takes_longer_on_every_machine(name: str, shape: str) -> None:
    cost = step_cost(hardware(name), model_shape(shape))
    least = cost.seconds(0, 0, 1, 1, 1000)
    assert 0 < least < cost.seconds(0, 0, 1, 1, 100_000)
    # Launching a small model's kernels takes longer than computing.
    assert least <= cost.seconds(1000, 0, 1, 0, 0) <= cost.seconds(8000, 0, 1, 0, 0)
    assert cost.seconds(8000, 0, 1, 0, 0) < cost.seconds(8000, 10**8, 1, 0, 0)
