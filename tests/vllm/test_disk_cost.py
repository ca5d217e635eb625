"""The benchmark of the disk tier's bookkeeping does what it claims: everything comes from disk, everything ends."""

from elmas.vllm.disk_cost import disk_cost


def test_a_full_queue_whose_blocks_are_all_on_disk_is_measured(model_shape: str) -> None:
    cost = disk_cost(model_shape, n_waiting=24, n_blocks=8)
    assert cost.n_blocks_read == 24 * 8
    for queue in (cost.disk, cost.host):
        assert 0 < queue.arrival_microseconds < queue.request_microseconds
        assert 0 < queue.step_microseconds <= queue.longest_step_microseconds
