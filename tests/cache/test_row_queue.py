"""A queue of rows stays in order and within its array, and looks at pinned rows a piece at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elmas.cache import row_queue
from elmas.cache.row_queue import PASSED_LOOK, RowQueue
from elmas.cache.rows import as_rows

CAPACITY = 12

batches = st.lists(st.integers(0, CAPACITY - 1), min_size=1, max_size=CAPACITY, unique=True)
sets = st.sets(st.integers(0, CAPACITY - 1))
steps = st.one_of(
    st.tuples(st.just("push"), batches, st.none(), st.none()),
    st.tuples(st.just("remove"), batches, st.none(), st.none()),
    st.tuples(st.just("pop"), st.integers(0, CAPACITY), st.integers(0, CAPACITY), st.tuples(sets, sets)),
)


@settings(max_examples=400)
@given(st.lists(steps, max_size=100))
def test_rows_leave_in_order(history) -> None:
    queue, model = RowQueue(CAPACITY), []
    for action, argument, max_walked, marks in history:
        if action == "push":
            queue.push(as_rows(argument))
            model = [row for row in model if row not in argument] + argument
        elif action == "remove":
            held = [row for row in argument if row in model]
            queue.remove(as_rows(held))
            model = [row for row in model if row not in held]
        else:
            pinned, staying = marks
            n_pins = np.zeros(CAPACITY, dtype=np.int32)
            n_pins[list(pinned)] = 1
            expected: list[int] = []
            for row in [row for row in model if row not in pinned]:
                if sum(taken not in staying for taken in expected) == argument or len(expected) == max_walked:
                    break
                expected.append(row)
            stays = np.isin(np.arange(CAPACITY), list(staying))
            popped = queue.pop(argument, n_pins, lambda rows, stays=stays: stays[rows], max_walked)
            assert popped.tolist() == expected
            model = [row for row in model if row not in expected]
        assert queue.n_held == len(model)
        assert (np.diff(queue.order(as_rows(model))) > 0).all()
        assert queue._n_passed <= queue._head <= queue._tail <= 2 * CAPACITY


@settings(max_examples=300)
@given(st.lists(st.tuples(batches, st.integers(1, CAPACITY), sets, st.booleans()), max_size=60))
def test_no_row_is_lost_however_small_the_pieces(history) -> None:
    queue, held = RowQueue(CAPACITY), set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_queue, "PASSED_LOOK", 2)
        patch.setattr(row_queue, "_FIRST_LOOK", 2)
        for pushed, n_rows, pinned, all_passed in history:
            queue.push(as_rows(pushed))
            held.update(pushed)
            n_pins = np.zeros(CAPACITY, dtype=np.int32)
            n_pins[list(pinned)] = 1
            popped = queue.pop(n_rows, n_pins, all_passed=all_passed).tolist()
            assert len(set(popped)) == len(popped) <= n_rows
            assert set(popped) <= held - pinned
            if all_passed:
                assert len(popped) == min(n_rows, len(held - pinned))
            held -= set(popped)
            assert queue.n_held == len(held)
            assert queue._n_passed <= queue._head <= queue._tail <= 2 * CAPACITY
    left = queue.pop(CAPACITY, np.zeros(CAPACITY, dtype=np.int32), all_passed=True)
    assert set(left.tolist()) == held


def test_many_pinned_rows_are_looked_at_in_pieces() -> None:
    n_rows = 10 * PASSED_LOOK
    queue, n_pins = RowQueue(n_rows), np.ones(n_rows, dtype=np.int32)
    queue.push(as_rows(range(n_rows)))
    n_pins[-100:] = 0
    assert queue.pop(1, n_pins).tolist() == [n_rows - 100], "all pinned rows before it were passed"
    late = 5 * PASSED_LOOK
    n_pins[late] = 0
    popped = [int(queue.pop(1, n_pins)[0]) for _ in range(10)]
    assert late in popped, "found within one round of the pieces"
    assert sorted(popped[:5]) == popped[:5], "the others go on in order meanwhile"


def test_no_unpinned_row_is_left_when_all_are_looked_at() -> None:
    n_rows = 10 * PASSED_LOOK
    queue, n_pins = RowQueue(n_rows), np.ones(n_rows, dtype=np.int32)
    queue.push(as_rows(range(n_rows)))
    assert queue.pop(1, n_pins).size == 0
    n_pins[[5, 5 * PASSED_LOOK, 9 * PASSED_LOOK]] = 0
    assert queue.pop(3, n_pins, all_passed=True).tolist() == [5, 5 * PASSED_LOOK, 9 * PASSED_LOOK]
    assert queue.n_held == n_rows - 3
