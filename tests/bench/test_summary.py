"""Figures of a run, against numpy and against sums done by hand."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elmas.agents.endpoint import RequestRecord
from elmas.bench.summary import spread, summarise, tpot_s


def record(submitted_s: float, chunks: tuple[float, ...], ended_s: float, **fields: object) -> RequestRecord:
    return RequestRecord(submitted_s, ended_s, chunks, completion_tokens=len(chunks), **fields)  # type: ignore[arg-type]


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200), st.floats(0, 100))
def test_figures_of_a_spread_are_those_of_the_values(values: list[float], percent: float) -> None:
    found = spread(iter(values), [percent])
    assert found is not None
    ordered = sorted(values)
    assert found.n == len(values)
    assert found.mean_s == pytest.approx(math.fsum(values) / len(values), rel=1e-9, abs=1e-9)
    assert found.median_s == pytest.approx(statistics.median(values), rel=1e-9, abs=1e-9)
    assert found.std_s == pytest.approx(statistics.pstdev(values), rel=1e-6, abs=1e-6)
    (percentile,) = found.percentiles_s.values()
    below = ordered[int((len(values) - 1) * percent / 100)]
    assert below <= percentile * (1 + 1e-12) + 1e-9
    assert percentile <= ordered[-1] * (1 + 1e-12)


def test_a_run_adds_up() -> None:
    records = [
        record(10.0, (11.0, 11.5, 12.0), 12.1, prompt_tokens=100),
        record(10.5, (13.5,), 13.6, prompt_tokens=50),
        record(10.2, (), 14.0, prompt_tokens=999, error="HTTP 500: no"),
    ]
    summary = summarise(records)
    assert (summary.n_requests, summary.n_failed) == (3, 1)
    assert summary.jct_s == pytest.approx(4.0)  # the failed request kept the job waiting too
    assert summary.ttft is not None
    assert summary.tpot is not None
    assert summary.itl is not None
    assert summary.e2el is not None
    assert summary.ttft.mean_s == pytest.approx((1.0 + 3.0) / 2)
    assert summary.tpot.mean_s == pytest.approx(0.5)  # an answer of one token has none
    assert summary.itl.median_s == pytest.approx(0.5)
    assert summary.e2el.mean_s == pytest.approx((2.1 + 3.1) / 2)
    assert (summary.prompt_tokens, summary.output_tokens) == (150, 4)
    assert summary.output_tokens_per_s == pytest.approx(1.0)
    assert summary.total_tokens_per_s == pytest.approx(154 / 4)
    assert summary.requests_per_s == pytest.approx(0.5)


def test_several_tokens_in_one_chunk_still_count() -> None:
    bundled = RequestRecord(0.0, 3.0, (1.0, 3.0), completion_tokens=5)
    assert tpot_s(bundled) == pytest.approx(0.5)


def test_no_records_give_no_figures() -> None:
    summary = summarise([])
    assert summary.jct_s == 0.0
    assert summary.ttft is None
    assert summary.output_tokens_per_s is None
