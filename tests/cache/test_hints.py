"""Hints that make no sense are dropped and counted, and tenants whose hints are wrong are not believed."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elmas.cache.hints import NO_HINTS, Hints, Trust, parse_hints


def test_all_hints_are_read() -> None:
    values = {
        "session": "a", "next_use_s": 3, "next_use_steps": 2, "ttl_s": 60.0, "priority": 2.0,
        "done": True, "prefetch": True, "signal": False, "prefixes": [[200, 4], [100, 1.5]],
    }  # fmt: skip
    prefixes = ((100, 1.5), (200, 4.0))
    assert parse_hints(values) == (Hints("a", 3, 2, 60.0, 2.0, True, True, False, prefixes), 0)
    assert parse_hints({"prefixes": []}) == (Hints(prefixes=()), 0)
    assert parse_hints(None) == (NO_HINTS, 0)


@pytest.mark.parametrize(
    "values",
    [
        {"session": ""},
        {"session": "x" * 300},
        {"session": 7},
        {"next_use_s": -1},
        {"next_use_s": math.nan},
        {"next_use_s": math.inf},
        {"next_use_s": True},
        {"next_use_s": "soon"},
        {"next_use_steps": 1.5},
        {"ttl_s": 1e12},
        {"priority": None},
        {"done": 1},
        {"prefixes": 3},
        {"prefixes": [[1]]},
        {"prefixes": [[1, 2, 3]]},
        {"prefixes": [[0, 1.0]]},
        {"prefixes": [[16.0, 1.0]]},
        {"prefixes": [[True, 1.0]]},
        {"prefixes": [[1 << 40, 1.0]]},
        {"prefixes": [[16, -1.0]]},
        {"prefixes": [[16, math.inf]]},
        {"prefixes": [[16, 1.0], "x"]},
        {"prefixes": [[16, 1.0]] * 17},
        {"nonsense": 1},
        {3: 4},
        [],
        "hints",
    ],
)
def test_a_bad_hint_is_counted_and_dropped(values: Any) -> None:
    assert parse_hints(values) == (NO_HINTS, 1)


def test_a_bad_hint_does_not_take_the_good_ones_with_it() -> None:
    assert parse_hints({"done": True, "ttl_s": "x", "other": 1}) == (Hints(is_done=True), 2)


def test_prefixes_of_a_signal_are_of_no_use() -> None:
    assert parse_hints({"signal": True, "done": True, "prefixes": [[16, 1.0]]}) == (
        Hints(is_signal=True, is_done=True),
        1,
    )
    assert parse_hints({"signal": False, "prefixes": [[16, 1.0]]}) == (Hints(prefixes=((16, 1.0),)), 0)


def test_priority_is_kept_within_bounds() -> None:
    assert parse_hints({"priority": 1e9})[0].priority == 10.0
    assert parse_hints({"priority": -5})[0].priority == 0.1


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from(
    ["session", "next_use_s", "next_use_steps", "ttl_s", "priority", "done", "prefetch", "signal", "prefixes"]
)


@given(json_values | st.dictionaries(keys | st.text(max_size=5), json_values))
def test_whatever_comes_is_no_error(values: Any) -> None:
    hints, n_bad = parse_hints(values)
    n_keys = len(values) if isinstance(values, dict) else 1
    assert 0 <= n_bad <= n_keys
    assert hints.next_use_s is None or 0 <= hints.next_use_s < math.inf


def numbers(*tenants: int) -> np.ndarray:
    return np.array(tenants, dtype=np.int32)


def test_wrong_predictions_lose_trust_for_their_tenant_only_and_right_ones_regain_it() -> None:
    trust = Trust()
    good, bad = trust.tenant("good"), trust.tenant("bad")
    for _ in range(30):
        trust.returned(good, predicted_s=10.0, actual_s=11.0)
        trust.returned(bad, predicted_s=10.0, actual_s=50.0)
    assert trust.believes_returns(numbers(good, bad)).tolist() == [True, False]
    for _ in range(60):
        trust.returned(bad, predicted_s=10.0, actual_s=10.0)
    assert trust.believes_returns(numbers(bad)).all()


def test_ends_that_were_none_lose_trust() -> None:
    trust = Trust()
    for _ in range(10):
        trust.ended(0, is_true=True)
    assert trust.believes_ends(numbers(0)).all()
    assert not trust.believes_returns(numbers(0)).any(), "one says nothing of the other"
    for _ in range(10):
        trust.ended(0, is_true=False)
    assert not trust.believes_ends(numbers(0)).any()


def test_a_few_predictions_must_come_true_before_any_is_believed() -> None:
    trust = Trust()
    n_true = 0
    while not trust.believes_returns(numbers(0))[0]:
        trust.returned(0, predicted_s=10.0, actual_s=10.0)
        n_true += 1
    assert 3 <= n_true <= 10


def test_who_predicts_well_is_believed_in_ends_until_one_is_refuted() -> None:
    trust = Trust()
    assert not trust.believes_ends(numbers(0))[0]
    for _ in range(20):
        trust.returned(0, predicted_s=10.0, actual_s=10.0)
    assert trust.believes_ends(numbers(0))[0]
    trust.ended(0, is_true=False)
    assert not trust.believes_ends(numbers(0))[0]


def test_tenants_beyond_the_table_share_a_number() -> None:
    trust = Trust()
    given = {trust.tenant(f"salt {i}") for i in range(5000)}
    assert len(given) == 4095
    assert trust.tenant(None) == 0 not in given
    assert trust.tenant("salt 3") == trust.tenant("salt 3")
