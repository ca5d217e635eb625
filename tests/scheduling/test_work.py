"""Estimates are what a walk over all blocks finds, and others' work is counted on."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elmas.scheduling.work import LOAD_COST_SHARE, Work, run_end

BLOCK_TOKENS = 16


@dataclass
class Caches:
    """What device and host hold; a prompt's blocks are its prefixes."""

    device: set[bytes] = field(default_factory=set)
    host: set[bytes] = field(default_factory=set)

    def work(self) -> Work:
        return Work(BLOCK_TOKENS, self.device.__contains__, self.host.__contains__)


def blocks_of(prompt: bytes) -> list[bytes]:
    """Return one block per letter, equal where all letters before it are equal, too."""
    return [prompt[: end + 1] for end in range(len(prompt))]


@pytest.mark.parametrize("n_there", [0, 1, 3, 7])
def test_a_run_is_found_by_halving(n_there: int) -> None:
    blocks = blocks_of(b"abcdefg")
    there = set(blocks[:n_there])
    assert run_end(there.__contains__, blocks, 0, 7) == n_there
    assert run_end(there.__contains__, blocks, 2, 7) == max(2, n_there)


@given(st.integers(0, 9), st.integers(0, 9), st.integers(1, 9), st.integers(1, BLOCK_TOKENS))
def test_the_cost_is_what_no_cache_has_and_what_would_be_lost(
    n_device: int, n_host: int, n_blocks: int, n_last_tokens: int
) -> None:
    blocks = blocks_of(b"abcdefghi"[:n_blocks])
    estimate = (
        Caches(set(blocks[:n_device]), set(blocks[:n_host]))
        .work()
        .estimate((n_blocks - 1) * BLOCK_TOKENS + n_last_tokens, blocks[: n_blocks - (n_last_tokens < BLOCK_TOKENS)])
    )
    n_usable = n_blocks - 1  # one token is computed in any case
    on_device, in_host = min(n_device, n_usable), min(n_host, n_usable)
    n_load, n_at_risk = max(0, in_host - on_device), max(0, on_device - in_host)
    n_cached = on_device + n_load + n_at_risk
    n_compute = (n_blocks - 1) * BLOCK_TOKENS + n_last_tokens - n_cached * BLOCK_TOKENS
    assert estimate.cost == pytest.approx(n_compute + LOAD_COST_SHARE * n_load * BLOCK_TOKENS)
    assert estimate.next_block == (blocks[on_device] if on_device < n_usable else None)
    assert not estimate.is_coming


@given(st.integers(1, 12), st.data())
def test_whatever_was_found_before_the_same_run_is_found_now(n_blocks: int, data: st.DataObject) -> None:
    blocks = blocks_of(b"abcdefghijkl"[:n_blocks])
    n_there, first, guess = data.draw(st.tuples(*[st.integers(0, n_blocks)] * 3))
    looked: list[bytes] = []

    def is_there(block: bytes) -> bool:
        looked.append(block)
        return len(block) <= n_there

    end = run_end(is_there, blocks, first, n_blocks, guess)
    assert end == max(first, n_there)
    if guess == end:
        assert len(looked) <= 2


ends = st.tuples(st.integers(0, 9), st.integers(0, 9))


@given(st.integers(1, 9), st.lists(ends, min_size=1, max_size=5))
def test_an_estimate_does_not_depend_on_the_ones_before(n_blocks: int, moments: list[tuple[int, int]]) -> None:
    """Device and host memory hold more or less of a prompt from one look to the next."""
    blocks = blocks_of(b"abcdefghi"[:n_blocks])
    caches = Caches()
    work, before = caches.work(), None
    for n_device, n_host in moments:
        caches.device.clear()
        caches.host.clear()
        caches.device.update(blocks[:n_device])
        caches.host.update(blocks[:n_host])
        now = work.estimate(n_blocks * BLOCK_TOKENS, blocks, before)
        assert now == caches.work().estimate(n_blocks * BLOCK_TOKENS, blocks)
        assert work.estimate(n_blocks * BLOCK_TOKENS, blocks, now) is now
        before = now


prompts = st.text(alphabet="ab", min_size=1, max_size=8).map(str.encode)


@settings(max_examples=300)
@given(st.lists(st.tuples(prompts, st.integers(0, 8), st.booleans()), max_size=6), prompts)
def test_what_another_one_brings_is_coming(begun: list[tuple[bytes, int, bool]], prompt: bytes) -> None:
    """Of each request that has begun the first blocks are on the device, and stay there while it brings the others."""
    caches = Caches()
    work = caches.work()
    for number, (other, n_device, _) in enumerate(begun):
        caches.device |= set(blocks_of(other)[:n_device])
        work.begin(str(number), blocks_of(other))
    for number, (_, _, has_ended) in enumerate(begun):
        if has_ended:
            work.end(str(number))
    blocks = blocks_of(prompt)
    estimate = work.estimate(len(blocks) * BLOCK_TOKENS + 1, blocks)
    n_device = sum(block in caches.device for block in blocks)
    half = n_device + max(0, (len(blocks) - n_device) // 2 - 1)
    coming = [other for other, _, has_ended in begun if not has_ended and half < len(blocks)]
    assert estimate.is_coming == (n_device < len(blocks) and any(blocks[half] in blocks_of(other) for other in coming))


def test_nothing_is_kept_of_those_that_have_ended() -> None:
    work = Caches().work()
    for number in range(10):
        work.begin(str(number), blocks_of(bytes([number % 3] * 5)))
    for number in range(10):
        work.end(str(number))
        work.end(str(number))
    assert [work._coming, work._by_first, work._n_at_place] == [{}, {}, {}]


def test_a_request_that_begins_again_after_its_load_brings_its_blocks_once() -> None:
    caches = Caches()
    work, blocks = caches.work(), blocks_of(b"abcd")
    work.begin("a", blocks)
    caches.device |= set(blocks[:2])
    work.begin("a", blocks)
    work.end("a")
    caches.device.clear()
    assert not work.estimate(5 * BLOCK_TOKENS, blocks).is_coming, "nobody brings them any more"
