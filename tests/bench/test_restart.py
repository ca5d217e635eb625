"""The benchmark of a start finds all it has put there, with and without a footer."""

from pathlib import Path

import pytest

from elmas.bench.restart import measure_restart


@pytest.mark.parametrize("n_blocks", [1, 700])
def test_all_blocks_are_found_again_and_nothing_is_left(tmp_path: Path, n_blocks: int) -> None:
    made: list[None] = []
    result = measure_restart(tmp_path, n_blocks, 524288, lambda: made.append(None))
    assert result.n_blocks == n_blocks
    assert result.n_segments == len(made) == -(-n_blocks // 253)
    assert result.to_json()["index_bytes"] > 0
    assert not list(tmp_path.iterdir())
