"""Hit rates: one denominator, all prompt tokens."""

import math

import httpx
import pytest
from stub_server import StubServer, metrics_text

from elmas.bench.counters import PromptTokens, read_counters
from elmas.serve.process import parse_metrics


def test_shares_are_of_all_prompt_tokens_between_two_readings() -> None:
    before = read_counters(parse_metrics(metrics_text(computed=100, device=10, host=0, preemptions=1)))
    after = read_counters(parse_metrics(metrics_text(computed=200, device=160, host=250, preemptions=3)))
    tokens = after - before
    assert tokens == PromptTokens(computed=100, device=150, host=250, preemptions=2)
    assert tokens.total == 500
    rates = tokens.rates
    assert (rates.device, rates.host, rates.recomputed) == pytest.approx((0.3, 0.5, 0.2))


def test_engines_are_added_up_and_other_series_ignored() -> None:
    one = metrics_text(computed=5)
    two = metrics_text(computed=7).replace('engine="0"', 'engine="1"')
    samples = parse_metrics(one + "\n".join(line for line in two.splitlines() if not line.startswith("#")) + "\n")
    assert read_counters(samples).total == 12


def test_no_prompt_tokens_have_no_shares() -> None:
    assert math.isnan(read_counters({}).rates.device)


def test_a_page_over_http_reads_the_same(stub: StubServer) -> None:
    stub.prompt_tokens = 42
    assert read_counters(parse_metrics(httpx.get(stub.base_url + "/metrics").text)).computed == 42
