"""The simulated device cache against a plain list of free blocks, as vLLM keeps it."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from elmas.sim.device import DeviceBlocks, DeviceCache


class PlainPool:
    """vLLM's block pool, block by block: a list of free blocks, the next to be taken first."""

    def __init__(self, n_blocks: int) -> None:
        self.free = list(range(n_blocks))
        self.n_references = [0] * n_blocks
        self.hash_of: list[bytes | None] = [None] * n_blocks

    def allocate(self, n: int) -> list[int]:
        taken, self.free = self.free[:n], self.free[n:]
        for block in taken:
            self.hash_of[block] = None
            self.n_references[block] = 1
        return taken

    def touch(self, blocks: list[int]) -> None:
        for block in blocks:
            if self.n_references[block] == 0:
                self.free.remove(block)
            self.n_references[block] += 1

    def release(self, blocks: list[int]) -> None:
        empty, full = [], []
        for block in reversed(blocks):
            self.n_references[block] -= 1
            if self.n_references[block] == 0:
                (empty if self.hash_of[block] is None else full).append(block)
        self.free = [*empty, *self.free, *full]

    def holds(self, key: bytes) -> bool:
        return key in self.hash_of


@settings(max_examples=100)
@given(st.data())
def test_blocks_are_taken_found_and_freed_as_by_vllms_pool(data: st.DataObject) -> None:
    n_blocks = data.draw(st.integers(4, 24))
    cache, plain = DeviceCache(n_blocks + 1), PlainPool(n_blocks)
    held: list[DeviceBlocks] = []
    for _ in range(data.draw(st.integers(1, 40))):
        assert cache.n_free == len(plain.free)
        if held and data.draw(st.booleans()):
            blocks = held.pop(data.draw(st.integers(0, len(held) - 1)))
            cache.release(blocks)
            plain.release(blocks.tolist())
        else:
            # A prompt of one of a few families: what is resident of it is hit, the rest is taken anew.
            family = data.draw(st.integers(0, 3))
            hashes = [bytes([family, place]) for place in range(data.draw(st.integers(1, n_blocks)))]
            n_hit = cache.n_resident(hashes)
            expected = next((i for i, key in enumerate(hashes) if not plain.holds(key)), len(hashes))
            assert n_hit == expected
            hits = cache.find(hashes[:n_hit])
            assert [plain.hash_of[block] for block in hits.tolist()] == hashes[:n_hit]
            if len(hashes) - n_hit + cache.n_unused(hits) > cache.n_free:
                continue
            cache.touch(hits)
            plain.touch(hits.tolist())
            new = cache.allocate(len(hashes) - n_hit)
            assert new.tolist() == plain.allocate(len(hashes) - n_hit)
            # The last block is incomplete now and then: it holds nothing that could be found.
            n_full = len(hashes) - n_hit - data.draw(st.integers(0, 1))
            if n_full > 0:
                cache.register(hashes[n_hit : n_hit + n_full], new[:n_full])
                for key, block in zip(hashes[n_hit:], new[:n_full].tolist(), strict=False):
                    plain.hash_of[block] = key
            held.append(np.concatenate((hits, new)))
        cache.check_integrity()
    for blocks in held:
        cache.release(blocks)
    cache.check_integrity()
    assert cache.n_free == n_blocks


def test_of_two_blocks_with_the_same_tokens_the_other_is_found_when_one_is_taken() -> None:
    cache = DeviceCache(3)
    for _ in range(2):
        cache.register([b"same"], cache.allocate(1))
    first, second = cache.find([b"same"]), 1 - cache.find([b"same"])
    cache.release(first)
    cache.release(second)
    cache.allocate(1)
    assert cache.find([b"same"]).tolist() == second.tolist()
    cache.check_integrity()
