"""GAIA's agents against a real server: a random model plays legally, runs tools, and comes to an answer everywhere."""

import asyncio

import pytest

from elmas.agents.endpoint import Endpoint
from elmas.agents.gaia.play import GaiaResult, GaiaSettings, play
from elmas.agents.model import Model
from elmas.bench.arms import MODEL_NAME
from elmas.serve.process import ServerProcess

pytestmark = pytest.mark.server


def test_agents_of_a_random_model_answer_every_question(server: ServerProcess) -> None:
    async def run() -> GaiaResult:
        async with Model(Endpoint(f"{server.base_url}/v1", MODEL_NAME)) as model:
            return await play(GaiaSettings(level=1, max_steps=2), model)

    result = asyncio.run(run())
    assert result.failures == []
    assert [each.error for each in result.results] == [None] * 6
    assert result.scores() == {1: (0, 6)}
    assert all(step.action is not None for each in result.results for one in each.attempts for step in one.steps)
    # What comes before is the same in every call of an agent, and the instructions are the same in all.
    cached = [
        step.answer.record.cached_tokens or 0 for each in result.results for one in each.attempts for step in one.steps
    ]
    assert sum(cached) > 0
