"""Device and host memory hold different blocks when both are full, which saves computing."""

from dataclasses import replace

import pytest

from elmas.movement.exchange import Exchange
from elmas.sim.hardware import hardware, model_shape
from elmas.sim.run import Outcome, Setup, simulate
from elmas.sim.waiting import OrderPlan
from elmas.sim.workloads import find_rounds


def play(order: str) -> Outcome:
    setup = Setup(
        hardware("h200"),
        model_shape("llama-3-8b"),
        n_device_blocks=4096,
        host_bytes=40 << 30,
        policy="next-use",
        order=OrderPlan(10_000),
    )
    rounds = find_rounds("C")
    return simulate(setup, replace(rounds, n_agents=90, order="shuffled") if order == "shuffled" else rounds)


@pytest.mark.parametrize("order", ["fixed", "shuffled"])
def test_less_is_computed_with_an_exchange(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_it = play(order)
    assert with_it.tier_counts["exchanged_blocks"] > 0
    monkeypatch.setattr(Exchange, "plan", lambda self, n_waiting: [])
    without = play(order)
    computed, computed_without = (
        outcome.records.counts.n_computed_tokens + outcome.records.counts.n_computed_again_tokens
        for outcome in (with_it, without)
    )
    assert computed < computed_without
    assert with_it.jct_s < without.jct_s
