"""Queues that values leave anywhere hold what a set does, in order."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from elmas.scheduling.key_queue import Key, KeyQueue
from elmas.scheduling.sorted_numbers import SortedNumbers

# Whether a value is added or taken out, which, and whether rather the least one.
operations = st.lists(st.tuples(st.booleans(), st.integers(0, 20), st.booleans()), max_size=120)


def play(
    operations: list[tuple[bool, int, bool]],
    add: Callable[[int], None],
    remove: Callable[[int], None],
    check: Callable[[set[int]], None],
) -> None:
    """Play those of the operations that are possible, and check after each one."""
    held: set[int] = set()
    for is_added, value, is_least in operations:
        if is_added and value not in held:
            add(value)
            held.add(value)
        elif not is_added and held:
            value = min(held) if is_least else min(held, key=lambda other: abs(other - value))
            remove(value)
            held.remove(value)
        check(held)


@given(operations)
def test_numbers_are_in_order_whatever_leaves(operations: list[tuple[bool, int, bool]]) -> None:
    numbers = SortedNumbers()

    def check(held: set[int]) -> None:
        assert len(numbers) == len(held)
        assert numbers.first == min(held, default=None)
        if held:
            assert numbers.last == max(held)
            for number in range(-1, 21):
                assert numbers.after(number) == min((other for other in held if other > number), default=min(held))

    play(operations, numbers.add, numbers.remove, check)


@given(operations)
def test_the_least_key_is_first_whatever_leaves(operations: list[tuple[bool, int, bool]]) -> None:
    queue = KeyQueue()

    def check(held: set[int]) -> None:
        assert len(queue) == len(held)
        assert queue.first == (key_of(min(held)) if held else None)

    def key_of(number: int) -> Key:
        return 0, float(number), number

    play(operations, lambda n: queue.add(key_of(n)), lambda n: queue.remove(key_of(n)), check)


def test_what_has_left_takes_no_more_room_than_what_is_there() -> None:
    numbers, queue = SortedNumbers(), KeyQueue()
    for number in range(5000):
        numbers.add(number)
        queue.add((0, 1.0, number))
    for number in range(1, 4900):
        numbers.remove(number)
        queue.remove((0, 1.0, number))
        queue.add((0, 0.5, number))
        queue.remove((0, 0.5, number))
    assert len(numbers) == len(queue) == 101
    assert len(numbers._numbers) <= 2 * 101 + 1
    assert len(queue._line) + len(queue._heap) <= 2 * 101 + 1
