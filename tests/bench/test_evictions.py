"""A tier whose rows are pinned gives up no more than what is not, whatever its policy."""

from elmas.bench.evictions import _PinnedTier, eviction_costs
from elmas.cache.retention import POLICIES


def test_where_all_is_pinned_there_is_no_room_and_where_a_request_has_left_its_rows_are() -> None:
    for policy in POLICIES:
        tier = _PinnedTier(policy, 8)
        tier.store(0)
        assert tier.index.n_evicted == 0, policy
        tier.store(1)
        assert tier.index.n_evicted == 16, policy
        tier.index.check_integrity()


def test_each_policy_is_measured_with_and_without_something_to_give_up() -> None:
    costs = eviction_costs(1024, n_trials=3)
    assert [(cost.policy, cost.n_unpinned) for cost in costs] == [(name, n) for name in POLICIES for n in (0, 64)]
    assert all(cost.n_rows == 1024 and cost.microseconds >= 0 for cost in costs)
