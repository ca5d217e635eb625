"""vLLM's own retention: what a request had counts as used when it ends, its tail first to go."""

from collections.abc import Sequence

import numpy as np

from elmas.cache.rows import BlockHash, as_rows
from elmas.sim.offloading import OffloadingLru

N_ROWS = 12


def block(number: int) -> BlockHash:
    return number.to_bytes(4, "little")


def blocks(numbers: Sequence[int]) -> list[BlockHash]:
    return [block(number) for number in numbers]


def held(*numbers: int, session: int, policy: OffloadingLru) -> None:
    """Blocks arrive in the rows of their numbers."""
    policy.insert(as_rows(numbers), blocks(numbers), session, 0.0)


def victims(policy: OffloadingLru, n_rows: int) -> list[int]:
    return policy.victims(n_rows, np.zeros(N_ROWS, dtype=np.int32), [], 9).tolist()


def test_a_request_that_has_begun_makes_nothing_newer() -> None:
    policy = OffloadingLru(N_ROWS)
    held(0, 1, session=1, policy=policy)
    held(2, 3, session=2, policy=policy)
    policy.use(as_rows([0, 1]), 1, 1.0)
    assert victims(policy, 4) == [1, 0, 3, 2]


def test_a_request_that_has_ended_goes_last_from_its_tail() -> None:
    policy = OffloadingLru(N_ROWS)
    held(0, 1, session=1, policy=policy)
    held(2, 3, session=2, policy=policy)
    policy.ended(blocks([0, 1]), 1)
    assert victims(policy, 4) == [3, 2, 1, 0]


def test_a_copy_that_lands_after_the_end_counts_as_used_with_the_others() -> None:
    """Else the last blocks of a prompt would outlive those before them, without which they cannot be found."""
    policy = OffloadingLru(N_ROWS)
    held(0, 1, session=1, policy=policy)
    policy.ended(blocks([0, 1, 4]), 1)
    held(2, 3, session=2, policy=policy)
    held(4, session=1, policy=policy)
    assert victims(policy, 5) == [3, 2, 4, 1, 0]


def test_what_was_given_up_is_forgotten() -> None:
    policy = OffloadingLru(N_ROWS)
    held(0, 1, session=1, policy=policy)
    assert victims(policy, 1) == [1]
    held(2, session=2, policy=policy)
    policy.ended(blocks([0, 1]), 1)
    policy.remove(as_rows([2]))
    assert victims(policy, 3) == [0]
