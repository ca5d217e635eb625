"""The infinite cache, estimates over trials, the tidy table and the time left, against simple models."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elmas.bench.counters import Served
from elmas.bench.machine import Usage
from elmas.bench.rounds import RoundsWorkload
from elmas.bench.suite.accounting import check_counters, tier_bytes
from elmas.bench.suite.infinite import CachedRequest, infinite_hit_tokens
from elmas.bench.suite.plan import Session
from elmas.bench.suite.results import Results, metrics_of, write_csv
from elmas.bench.suite.statistics import mean_estimate, ratio_estimate
from elmas.bench.suite.tables import summary_tables
from elmas.bench.suite.time_left import TimeLeft, about
from elmas.bench.suite.trial import (
    RequestColumns,
    ServerPart,
    TierBytes,
    TokenCounts,
    Trial,
    WorkloadPart,
    read_trial,
    read_trials,
    write_trial,
)
from elmas.bench.summary import Metrics, Spread
from elmas.errors import UserError

tokens = st.lists(st.integers(0, 1), max_size=12)


def trial_of(server: str, number: int, jct_s: float, answers: str = "ab") -> Trial:
    spread = Spread(2, 0.5, 0.5, 0.1, {"90": 0.6, "99": 0.7})
    return Trial(
        workload=WorkloadPart("small", 1, 0.5, "synthetic", 2, 100, {"n_agents": 2}),
        server=ServerPart(server, "serve", {"block_size": 16}, 16, 1.0),
        trial=number,
        status="done",
        begun=f"2026-01-01T00:00:0{number}",
        machine={"cores": 2},
        versions={"python": "3.11"},
        metrics=Metrics(jct_s, 2, 0, 100, 8, 2 / jct_s, 8 / jct_s, 108 / jct_s, spread, spread, None, spread),
        tokens=TokenCounts(100, 30, 20, 10, 40),
        infinite_hit_rate=0.7,
        bytes=TierBytes(10, 20, None, None),
        request_digest="r",
        output_digest=answers,
        usage=Usage(jct_s, 1.0, 0.1),
        requests=RequestColumns(
            list("xy"), [0, 0], [0, 0], [0.0, 0.1], [0.5, None], [1.0, 1.0], [50, 50], [4, 4], [0, None], list(answers)
        ),
    )


@given(st.lists(st.tuples(tokens, tokens, st.integers(0, 5)), max_size=8), st.integers(1, 3))
def test_an_infinite_cache_serves_the_longest_prefix_that_was_there(
    requests: list[tuple[list[int], list[int], int]], block_size: int
) -> None:
    """The model looks for every prefix in everything earlier, token by token."""
    cached = [
        CachedRequest(float(i), float(i) + seconds, prompt, answer)
        for i, (prompt, answer, seconds) in enumerate(requests)
    ]
    expected = 0
    for i, request in enumerate(cached):
        known = [
            [*each.prompt, *(each.answer[:-1] if each.ended_s <= request.submitted_s else [])] for each in cached[:i]
        ]
        usable = max(0, len(request.prompt) - 1) // block_size
        expected += block_size * max(
            (
                n
                for n in range(usable + 1)
                if any(k[: n * block_size] == request.prompt[: n * block_size] for k in known)
            ),
            default=0,
        )
    assert infinite_hit_tokens(cached, block_size) == expected


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=8))
def test_the_mean_lies_in_its_interval_and_the_interval_among_the_values(values: list[float]) -> None:
    found = mean_estimate(values)
    assert found is not None
    assert found.value == pytest.approx(math.fsum(values) / len(values))
    if len(values) == 1:
        assert (found.low, found.high) == (None, None)
        return
    assert found.low is not None
    assert found.high is not None
    margin = 1e-9 * max(values)
    assert min(values) - margin <= found.low <= found.high <= max(values) + margin


def test_the_interval_holds_the_true_mean_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(7)
    hits = 0
    for _ in range(200):
        found = mean_estimate(list(random.normal(1, 0.2, 20)))
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 1 <= found.high
    assert 0.88 <= hits / 200 <= 0.99


def test_a_ratio_is_of_pairs_and_the_inverse_of_its_inverse() -> None:
    found, inverse = ratio_estimate([2.0, 8.0], [1.0, 2.0]), ratio_estimate([1.0, 2.0], [2.0, 8.0])
    assert found is not None
    assert inverse is not None
    assert found.value == pytest.approx(math.sqrt(8))
    assert found.value * inverse.value == pytest.approx(1)
    assert ratio_estimate([], []) is None


def test_a_file_gives_back_the_trial(tmp_path: Path) -> None:
    trial = trial_of("mt-apc:policy=lru", 0, 2.0)
    path = write_trial(tmp_path, trial)
    assert path == tmp_path / "small" / "mt-apc+policy=lru" / "trial-1.json"
    assert read_trial(path) == trial
    assert read_trials(tmp_path) == [trial]


@pytest.mark.parametrize("content", ["", "{}", '{"format": 1}', "[]"])
def test_what_is_no_result_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "trial-1.json"
    path.write_text(content)
    with pytest.raises(UserError, match="is no result") as caught:
        read_trial(path)
    assert "\n" not in str(caught.value)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = write_trial(tmp_path, replace(trial_of("noop", 0, 1.0), format=2))
    with pytest.raises(UserError, match="format 2"):
        read_trial(path)


def test_the_table_has_one_row_per_figure_and_tiers_share_one_denominator(tmp_path: Path) -> None:
    trials = [trial_of("noop", 0, 4.0), trial_of("mt-apc", 0, 2.0)]
    write_csv(trials, tmp_path / "results.csv")
    with (tmp_path / "results.csv").open() as file:
        found = {(row["server"], row["metric"]): float(row["value"]) for row in csv.DictReader(file)}
    assert found["mt-apc", "jct_s"] == 2.0
    assert found["noop", "ttft_p99_s"] == 0.7
    shares = [found["noop", f"prompt_{tier}_share"] for tier in ("device", "host", "disk", "recomputed")]
    assert sum(shares) == pytest.approx(1)
    assert found["noop", "hit_rate"] == pytest.approx(0.6)
    assert ("noop", "host_to_disk_bytes") not in found
    assert metrics_of(replace(trials[0], status="crashed")) == {}


def test_ratios_pair_trials_and_answers_are_compared_one_by_one() -> None:
    results = Results(
        (trial_of("noop", 0, 4.0), trial_of("noop", 1, 6.0), trial_of("mt-apc", 1, 2.0, "ac"), trial_of("x", 2, 1.0))
    )
    ratio = results.ratio("small", "noop", "mt-apc")
    assert ratio is not None
    assert (ratio.value, ratio.n) == (pytest.approx(3.0), 1)
    assert results.ratio("small", "noop", "x") is None
    assert results.n_different_answers("small", "noop", "mt-apc") == 1
    assert results.n_different_answers("small", "noop", "x") is None
    assert results.problems == ["small: the servers did not all give the same answers"]


def test_the_summary_shows_ratios_intervals_and_what_did_not_run() -> None:
    crashed = replace(trial_of("apc", 0, 1.0), status="crashed", reason="it died\nwith a log", metrics=None)
    results = Results(
        (
            trial_of("noop", 0, 4.0),
            trial_of("noop", 1, 5.0),
            trial_of("mt-apc", 0, 2.0),
            trial_of("mt-apc", 1, 2.0),
            crashed,
        )
    )
    (table,) = summary_tables(results, "noop")
    rows = dict(table.rows)
    assert table.servers == ("noop", "mt-apc")
    assert rows["JCT, s"] == ("4.50 (4.00 to 5.00)", "2.00")
    assert rows["speed, noop = 1"][1].startswith("2.24 (2.00 to 2.50")
    assert rows["answers unlike noop"] == ("0", "0")
    assert "host to disk, GB" not in rows
    assert table.notes == ("apc, trial 1: crashed: it died",)
    assert table.rich().row_count == len(table.rows)


def test_the_time_left_is_that_of_the_same_trials_then_of_like_ones() -> None:
    small = RoundsWorkload("small", 2, 2, 8, 8, 8, 8)
    large = replace(small, name="large", n_agents=20)
    time_left = TimeLeft()
    todo = [Session("noop", 1, (small,)), Session("mt-apc", 1, (small, large))]
    assert time_left.left_s(todo) is None
    time_left.starts_s.append(10.0)
    time_left.add(small, "noop", 4.0)
    # Two starts; the small one on both servers; the large one by its number of requests.
    assert time_left.left_s(todo) == pytest.approx(2 * 10 + 4 + 4 + 40)
    time_left.add(small, "mt-apc", 2.0)
    time_left.add(large, "mt-apc", 7.0)
    assert time_left.left_s(todo) == pytest.approx(2 * 10 + 4 + 2 + 7)
    assert [about(each) for each in (None, 30, 600, 9000)] == [
        "",
        "about 30 s left",
        "about 10 min left",
        "about 2.5 h left",
    ]


def test_the_clients_ttft_must_fit_the_servers_within_its_own_lag() -> None:
    metrics = trial_of("noop", 0, 2.0).metrics
    assert metrics is not None

    def agrees(ttft_sum_s: float, most_lag_s: float = 0.0) -> bool:
        served = Served(n_requests=2, prompt_tokens=100, output_tokens=8, ttft_sum_s=ttft_sum_s)
        checks = check_counters(metrics, served, most_lag_s)
        assert [check.agrees for check in checks[:3]] == [True] * 3
        return checks[3].agrees

    # Two requests of 0.5 s each as the client saw them.
    assert agrees(0.9)
    assert not agrees(1.1)  # the server cannot have been later than the client
    assert not agrees(0.1)
    assert agrees(0.1, most_lag_s=0.5)


def test_bytes_moved_are_counted_in_blocks_or_by_vllm_itself() -> None:
    assert tier_bytes({"store_blocks": 3, "disk_read_blocks": 2}, {}, 1000) == TierBytes(3000, 0, 0, 2000)
    assert tier_bytes({}, {"device_to_host": 7}, 1000) == TierBytes(7, 0, 0, 0)
    assert tier_bytes({"store_blocks": 3}, {}, None) == TierBytes()
