"""Batches of blocks are cut exactly where the prefixes that a client speaks of end."""

from hypothesis import given
from hypothesis import strategies as st

from elmas.cache.prefixes import prefixes_in_blocks


def chain(n: int) -> list[bytes]:
    return [number.to_bytes(32, "little") for number in range(n)]


@given(
    st.integers(0, 30),
    st.lists(st.tuples(st.integers(1, 500), st.floats(0, 100)), max_size=6),
    st.integers(0, 30),
    st.integers(0, 30),
)
def test_every_block_is_covered_by_the_shortest_prefix_it_is_in(
    n_blocks: int, said: list[tuple[int, float]], first: int, length: int
) -> None:
    hashes = chain(n_blocks)
    prefixes = prefixes_in_blocks(sorted(said), hashes, 16, 0, 1.0)
    batch = chain(40)[first : first + length]
    parts = prefixes.parts(batch, prefixes.n_passed(first))
    numbers, start = [], 0
    for end, number in parts:
        numbers += [number] * (end - start)
        start = end
    assert numbers == [prefixes.n_passed(place) for place in range(first, first + len(batch))]


@given(st.integers(1, 20), st.integers(0, 20))
def test_a_batch_without_an_end_lies_behind_what_was_passed(n_blocks: int, n_passed: int) -> None:
    prefixes = prefixes_in_blocks([(16 * n, float(n)) for n in range(1, n_blocks + 1)], chain(n_blocks), 16, 0, 0.0)
    n_passed = min(n_passed, prefixes.n)
    assert prefixes.parts([b"other"], n_passed) == [(1, n_passed)]
    assert prefixes.span_s(prefixes.n) == float("inf")


def test_only_whole_blocks_count_and_the_sooner_use_of_one_length_holds() -> None:
    prefixes = prefixes_in_blocks([(15, 1.0), (33, 2.0), (40, 1.5), (900, 3.0)], chain(5), 16, 7, 4.0)
    assert (prefixes.n_blocks, prefixes.spans_s, prefixes.tenant, prefixes.said_s) == ((2, 5), (1.5, 3.0), 7, 4.0)
