"""The suite on a real server: it starts it, empties it between two workloads, and agrees with its counters."""

import sys
from pathlib import Path

import pytest

from elmas.bench.suite.trial import read_trials
from elmas.cli import main

pytestmark = pytest.mark.server


def test_a_run_starts_a_server_and_agrees_with_its_own_count(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = "small,guessing_game"
    options = ["--benchmarks", names, "--servers", "mt-apc", "--num-trials", "1", "--scale", "0.1"]
    options += ["--model", str(tiny_model), "--num-gpu-blocks", "64", "--host-memory", "256MiB"]
    options += ["--disk", str(tmp_path / "disk"), "--disk-capacity", "256MiB"]
    monkeypatch.setattr(sys, "argv", ["elmas", "bench", "run", *options, "--result-dir", str(tmp_path / "suite")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (None, 0)
    trials = {trial.workload.name: trial for trial in read_trials(tmp_path / "suite")}
    assert {trial.status for trial in trials.values()} == {"done"}
    # The second workload was played by the same server: nothing was left in any tier, the disk included.
    assert [trials[name].server.fresh for name in ("small", "guessing_game")] == [True, False]
    for trial in trials.values():
        assert trial.violations == []
        assert trial.failures == []
        assert [check.name for check in trial.counters_check if check.agrees] == [
            *("requests", "prompt tokens", "output tokens", "sum of TTFT, s")
        ]
        assert trial.infinite_hit_rate is not None
        assert trial.hit_rate is not None
        assert 0 < trial.hit_rate <= trial.infinite_hit_rate + 0.05
    # 1,424 tokens of each agent's history do not fit beside the others' in 63 blocks of 32.
    small = trials["small"]
    assert small.tokens is not None
    assert small.tokens.host > 0
    assert small.bytes is not None
    assert small.bytes.device_to_host
    assert small.bytes.host_to_device
