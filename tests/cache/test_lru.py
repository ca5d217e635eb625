"""LRU gives up what an ordered dictionary would, and never a pinned row."""

from collections import OrderedDict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from elmas.cache.lru import Lru
from elmas.cache.rows import as_rows
from elmas.cache.sessions import NO_SESSION

CAPACITY = 12

batches = st.lists(st.integers(0, CAPACITY - 1), min_size=1, max_size=CAPACITY, unique=True)
steps = st.one_of(
    st.tuples(st.just("use"), batches),
    st.tuples(st.just("remove"), batches),
    st.tuples(st.just("evict"), st.tuples(st.integers(1, CAPACITY), st.sets(st.integers(0, CAPACITY - 1)))),
)


@settings(max_examples=300)
@given(st.lists(steps, max_size=120))
def test_gives_up_the_least_recently_used_unpinned_rows(history) -> None:
    policy = Lru(CAPACITY)
    model: OrderedDict[int, None] = OrderedDict()
    for action, argument in history:
        if action == "use":
            policy.use(as_rows(argument), NO_SESSION, 0.0)
            for row in reversed(argument):  # within a batch the tail is the older
                model.pop(row, None)
                model[row] = None
        elif action == "remove":
            held = [row for row in argument if row in model]
            policy.remove(as_rows(held))
            for row in held:
                del model[row]
        else:
            n_rows, pinned = argument
            n_pins = np.zeros(CAPACITY, dtype=np.int32)
            n_pins[list(pinned)] = 1
            expected = [row for row in model if row not in pinned][:n_rows]
            assert policy.victims(n_rows, n_pins, [], NO_SESSION).tolist() == expected
            for row in expected:
                del model[row]
