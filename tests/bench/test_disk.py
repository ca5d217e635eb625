"""`elmas bench disk`: every arm moves all blocks and leaves nothing behind; mistakes are told before it begins."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from elmas.bench.disk import ARMS, PLAIN, PLAIN_MERGED, STORE, DiskPlan, DiskResult, Throughput, Trial, measure_disk
from elmas.bench.machine import Usage
from elmas.cli.bench import bench
from elmas.errors import UserError


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(bench, ["disk", *arguments])


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory that takes direct I/O, as not all do that tests may run in."""
    probe = tmp_path / "probe"
    try:
        os.close(os.open(probe, os.O_CREAT | os.O_RDWR | os.O_DIRECT))
    except OSError:
        pytest.skip("no direct I/O here")
    finally:
        probe.unlink(missing_ok=True)
    return tmp_path


def test_all_arms_move_all_blocks_and_leave_nothing(directory: Path) -> None:
    plan = DiskPlan(directory, block_bytes=8192, n_blocks=50, run_blocks=8, queue_depth=3, n_trials=3)
    result = measure_disk(plan)
    assert [trial.arm for trial in result.trials] == [*ARMS, *ARMS[1:], ARMS[0], *ARMS[2:], *ARMS[:2]]
    assert all(way.bytes_per_s > 0 for trial in result.trials for way in (trial.write, trial.read))
    assert list(directory.iterdir()) == []


def test_results_are_written_and_judged(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    results = tmp_path_factory.mktemp("results")
    arguments = ("--block-bytes", "4096", "--n-blocks", "16", "--trials", "1", "--result-dir", str(results))
    outcome = invoke("--directory", str(directory), *arguments)
    written = json.loads((results / "disk.json").read_text())
    assert set(written["store_to_plain"]["read"]) == {PLAIN, PLAIN_MERGED}
    judged = [way[PLAIN] for way in written["store_to_plain"].values()]
    assert outcome.exit_code == (0 if min(judged) >= written["goal"] else 1)
    assert str(directory) not in json.dumps(written)


def test_the_goal_is_the_median_ratio_to_plain_reads_and_writes_of_the_same_size() -> None:
    def trials(store: float, plain: float, merged: float) -> list[Trial]:
        fast = Throughput(100.0, 0.1)
        speeds = ((STORE, store), (PLAIN, plain), (PLAIN_MERGED, merged))
        return [Trial(arm, fast, Throughput(speed, 0.1)) for arm, speed in speeds]

    plan = DiskPlan(Path(), 4096, 1, 1, 1, 3)
    runs = [*trials(50, 100, 100), *trials(95, 100, 100), *trials(95, 100, 105)]
    good = DiskResult(plan, runs, Usage(1.0, 0.0, 0.0))
    assert good.ratio("read", PLAIN) == 0.95
    assert good.meets_goal
    bad = DiskResult(plan, [*trials(80, 100, 80), *runs[:3], *runs[3:6]], Usage(1.0, 0.0, 0.0))
    assert bad.ratio("read", PLAIN) == 0.8
    assert not bad.meets_goal


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--directory", "no-such-place"], "no directory"),
        (["--directory", ".", "--block-bytes", "5000"], "multiple of 4096"),
        (["--directory", ".", "--n-blocks", "100000000000"], "smaller --n-blocks"),
        (["--directory", "/proc/self"], "free and"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str) -> None:
    error = invoke(*arguments).exception
    assert isinstance(error, UserError)
    assert message in str(error)
    assert "\n" not in str(error)
