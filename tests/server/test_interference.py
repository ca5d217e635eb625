"""`elmas bench interference`: contexts come from where they should, and phases are compared with the right control."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from elmas.bench import interference
from elmas.bench.arms import ServerShape
from elmas.bench.interference import (
    InterferencePlan,
    InterferenceResult,
    Phase,
    interference_table,
    measure_interference,
)
from elmas.errors import UserError
from elmas.serve.process import ServerProcess

PLAN = InterferencePlan(n_streams=2, stream_tokens=150, n_contexts=3, context_tokens=256, interval_s=0.05, n_rounds=1)


@pytest.mark.server
def test_contexts_come_from_host_memory_then_from_the_device_then_are_computed(
    server: ServerProcess, shape: ServerShape, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def shared(command: object, log_path: Path) -> Iterator[tuple[ServerProcess, float]]:
        yield server, 0.0

    monkeypatch.setattr(interference, "running_server", shared)
    server.reset_caches()
    result = measure_interference(PLAN, shape, ["mt-apc"], "cpu", tmp_path, lambda stage: None)
    host, device, new = result.phases
    assert [phase.kind for phase in result.phases] == ["host", "device", "new"]
    assert host.load_blocks >= 3 * 256 // shape.block_size
    assert device.load_blocks == 0
    assert new.store_blocks >= 3 * 256 // shape.block_size
    assert all(phase.gaps_s and min(phase.gaps_s) >= 0 for phase in result.phases)
    assert all(len(phase.longest_s) == PLAN.n_rounds for phase in result.phases), "the first round does not count"
    assert result.ratio(host, 99) == host.percentile_s(99) / device.percentile_s(99)
    assert result.ratio(device, 99) is None
    assert interference_table(result).row_count == 3


def test_new_contexts_are_compared_with_the_last_server_that_stores_nothing() -> None:
    stores = Phase("mt-apc", "new", [0.03, 0.03], 1.0, store_blocks=5)
    silent, noop = Phase("mt-apc:store=false", "new", [0.01], 1.0), Phase("noop", "new", [0.02], 1.0)
    result = InterferenceResult(PLAN, (stores, silent, noop), 1 << 20, {})
    assert result.ratio(stores, 50) == pytest.approx(1.5)
    assert result.ratio(noop, 50) is None
    assert result.to_json()["phases"][0]["store_bytes_per_s"] == 5 << 20


def test_a_load_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="all above 0"):
        InterferencePlan(1, 1, 0, 1, 1.0, 1).check()
