"""The simulated server against vLLM's own scheduler: the same requests end in the same steps, with the same hits."""

import math
import random

import pytest
from vllm.v1.outputs import ModelRunnerOutput

from elmas.sim.hardware import StepCost
from elmas.sim.requests import Job
from elmas.sim.server import Server, ServerPlan
from elmas.vllm.bare_scheduler import RequestMaker, make_bare_scheduler

BLOCK_TOKENS = 4
COST = StepCost(0.01, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
WAVE_S = 1e6
"""Waves of requests are so far apart that one has ended when the next one comes."""


class Waves:
    """Requests by wave as lists of (prompt, answer) tokens; remembers in which step each ended."""

    def __init__(self, waves: list[list[tuple[list[int], list[int]]]]) -> None:
        self.n_steps = lambda: 0
        self.ended_at: dict[int, int] = {}
        self._jobs = []
        for wave, requests in enumerate(waves):
            for prompt, answer in requests:
                tokens = prompt + answer
                ends = range(BLOCK_TOKENS, len(tokens) + 1, BLOCK_TOKENS)
                blocks = [repr(tokens[:end]).encode() for end in ends]
                self._jobs.append(Job(wave * WAVE_S, len(prompt), len(answer), blocks, tag=len(self._jobs)))

    def next_arrival_s(self) -> float:
        return self._jobs[0].arrival_s if self._jobs else math.inf

    def take(self) -> Job:
        return self._jobs.pop(0)

    def ended(self, job: Job, now_s: float) -> None:
        self.ended_at[job.tag] = self.n_steps()


def draw_waves(rng: random.Random) -> list[list[tuple[list[int], list[int]]]]:
    """Prompts of a few families share beginnings; answers are never the same twice."""
    waves = []
    for _ in range(rng.randint(1, 3)):
        requests = []
        for _ in range(rng.randint(1, 10)):
            family = rng.randint(1, 3)
            shared = [family] * rng.choice((0, 4, 12, 21))
            own = [rng.randint(10, 12) for _ in range(rng.randint(1, 30))]
            answer = [rng.randint(100, 1000) for _ in range(rng.randint(1, 25))]
            requests.append((shared + own, answer))
        waves.append(requests)
    return waves


@pytest.mark.parametrize("seed", range(40))
def test_the_simulated_server_takes_the_steps_that_vllm_takes(model_shape: str, seed: int) -> None:
    rng = random.Random(seed)
    n_blocks, max_running, max_tokens = rng.choice((25, 40, 200)), rng.choice((2, 4, 16)), rng.choice((16, 24, 256))
    waves = draw_waves(rng)

    source = Waves(waves)
    plan = ServerPlan(n_blocks, BLOCK_TOKENS, max_batched_tokens=max_tokens, max_running=max_running)
    server = Server(plan, COST, source)
    source.n_steps = lambda: server.records.counts.n_steps
    counts = server.run().counts
    server.device.check_integrity()

    scheduler = make_bare_scheduler(
        model_shape,
        connector=None,
        settings={},
        block_size=BLOCK_TOKENS,
        n_device_blocks=n_blocks,
        n_host_rows=1,
        max_num_seqs=max_running,
        max_batched_tokens=max_tokens,
        max_model_len=128,
    )
    maker = RequestMaker(BLOCK_TOKENS)
    answers: dict[str, list[int]] = {}
    ended_at: dict[int, int] = {}
    n_hit = n_preempted = n_steps = 0
    for requests in waves:
        for prompt, answer in requests:
            name = str(len(answers))
            answers[name] = answer
            scheduler.add_request(maker.make(name, prompt, len(answer)))
        while scheduler.requests:
            output = scheduler.schedule()
            n_steps += output.total_num_scheduled_tokens > 0
            n_preempted += len(output.preempted_req_ids or ())
            for new in output.scheduled_new_reqs:
                n_hit += new.num_computed_tokens
            sampled = []
            for name in output.num_scheduled_tokens:
                request = scheduler.requests[name]
                is_complete = request.num_computed_tokens >= request.num_tokens
                sampled.append([answers[name][request.num_output_tokens]] if is_complete else [])
            names = list(output.num_scheduled_tokens)
            live = set(scheduler.requests)
            places = {name: place for place, name in enumerate(names)}
            scheduler.update_from_output(output, ModelRunnerOutput(names, places, sampled_token_ids=sampled))
            ended_at |= {int(name): n_steps for name in live - set(scheduler.requests)}

    assert source.ended_at == ended_at
    assert (counts.n_steps, counts.n_preemptions, counts.n_device_tokens) == (n_steps, n_preempted, n_hit)
