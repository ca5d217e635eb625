"""Figures of a run, against numpy and against sums done by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elmas.agents.endpoint import RequestRecord
from elmas.bench.summary import distribution, percentile, summarise, tpot_s


def record(submitted_s: float, chunks: tuple[float, ...], ended_s: float, **fields: object) -> RequestRecord:
    return RequestRecord(submitted_s, ended_s, chunks, completion_tokens=len(chunks), **fields)  # type: ignore[arg-type]


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200), st.floats(0, 100))
def test_percentiles_are_those_of_numpy(values: list[float], percent: float) -> None:
    assert percentile(values, percent) == pytest.approx(float(np.percentile(values, percent)), rel=1e-9, abs=1e-9)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200))
def test_distribution_is_that_of_numpy(values: list[float]) -> None:
    found = distribution(values)
    expected = (np.mean(values), np.median(values), np.percentile(values, 99))
    assert (found.mean_s, found.median_s, found.p99_s) == pytest.approx(tuple(map(float, expected)), rel=1e-9, abs=1e-9)


def test_a_run_adds_up() -> None:
    records = [
        record(10.0, (11.0, 11.5, 12.0), 12.1, prompt_tokens=100),
        record(10.5, (13.5,), 13.6, prompt_tokens=50),
        record(10.2, (), 14.0, prompt_tokens=999, error="HTTP 500: no"),
    ]
    summary = summarise(records)
    assert (summary.n_requests, summary.n_failed) == (3, 1)
    assert summary.jct_s == pytest.approx(4.0)  # the failed request kept the job waiting too
    assert summary.ttft.mean_s == pytest.approx((1.0 + 3.0) / 2)
    assert summary.tpot.mean_s == pytest.approx(0.5)  # an answer of one token has none
    assert summary.itl.median_s == pytest.approx(0.5)
    assert summary.e2el.mean_s == pytest.approx((2.1 + 3.1) / 2)
    assert (summary.prompt_tokens, summary.output_tokens) == (150, 4)
    assert summary.output_tokens_per_s == pytest.approx(1.0)
    assert summary.prompt_tokens_per_s == pytest.approx(37.5)


def test_several_tokens_in_one_chunk_still_count() -> None:
    bundled = RequestRecord(0.0, 3.0, (1.0, 3.0), completion_tokens=5)
    assert tpot_s(bundled) == pytest.approx(0.5)


def test_no_records_give_no_figures() -> None:
    summary = summarise([])
    assert summary.jct_s == 0.0
    assert math.isnan(summary.ttft.mean_s)
    assert math.isnan(summary.output_tokens_per_s)
