"""`elmas bench copies`: rates for every size and kind of place; sizes that cannot be copied are told in one line."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from elmas.cli.bench import bench
from elmas.errors import UserError


def test_every_size_is_measured_scattered_and_in_runs(tmp_path: Path) -> None:
    options = ["--block-kib", "64,256", "--batch-mib", "1", "--trials", "1", "--result-dir", str(tmp_path)]
    done = CliRunner().invoke(bench, ["copies", *options])
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "copies.json").read_text())
    assert [(rate["name"], rate["piece_bytes"] >> 10) for rate in result["rates"]] == [
        ("scattered", 64),
        ("in runs", 64),
        ("scattered", 256),
        ("in runs", 256),
    ]
    assert all(rate[way] > 0 for rate in result["rates"] for way in ("to_device", "to_host", "both", "launch_s"))


@pytest.mark.parametrize(("sizes", "advice"), [("2048", "at most"), ("3", "multiple of 4096"), ("a", "whole numbers")])
def test_sizes_that_cannot_be_copied_are_refused(sizes: str, advice: str, tmp_path: Path) -> None:
    options = ["--block-kib", sizes, "--batch-mib", "1", "--result-dir", str(tmp_path)]
    done = CliRunner().invoke(bench, ["copies", *options])
    assert isinstance(done.exception, UserError)
    assert advice in str(done.exception)
