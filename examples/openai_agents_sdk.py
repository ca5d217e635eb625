"""The OpenAI Agents SDK against `elmas serve`: a writer and a critic who work in turns.

    make examples
    OPENAI_BASE_URL=http://127.0.0.1:8000/v1 .venv-examples/bin/python examples/openai_agents_sdk.py

Both keep their own history, so each of them comes back with a longer prompt every round: what MT-APC is for.
"""

import asyncio
import os

from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner, SQLiteSession, set_tracing_disabled
from openai import AsyncOpenAI
from pydantic import BaseModel, Field

N_ROUNDS = 3


class Verdict(BaseModel):
    """What the critic answers; the server enforces it (structured output)."""

    rhythm: int = Field(ge=1, le=10)
    surprise: int = Field(ge=1, le=10)


def settings(name: str) -> ModelSettings:
    """Return how an agent calls the model."""
    return ModelSettings(
        temperature=0,
        max_tokens=40,
        # The lines for elmas: who asks, and that it asks again after its usual interval.
        extra_headers={"X-Session-ID": name},
        extra_body={"kv_transfer_params": {"elmas": {"next_use_steps": 1}}},
    )


async def main() -> None:
    """Let the two agents work for some rounds and show what came of each."""
    set_tracing_disabled(True)  # traces would go to OpenAI
    # OPENAI_BASE_URL names the server; a key is needed only where the server demands one.
    client = AsyncOpenAI(api_key=os.environ.get("OPENAI_API_KEY") or "none")
    model = OpenAIChatCompletionsModel((await client.models.list()).data[0].id, client)
    writer = Agent(
        name="writer",
        instructions="You write one line of a sea shanty at a time, and better it when a critic has rated it.",
        model=model,
        model_settings=settings("shanty/writer"),
    )
    critic = Agent(
        name="critic",
        instructions="You rate lines of sea shanties from 1 to 10, by rhythm and by surprise. You are hard to please.",
        model=model,
        model_settings=settings("shanty/critic"),
        output_type=Verdict,
    )
    histories = {agent.name: SQLiteSession(agent.name) for agent in (writer, critic)}  # in memory
    task = "Begin with the harbor."
    for number in range(1, N_ROUNDS + 1):
        line = (await Runner.run(writer, task, session=histories["writer"])).final_output
        verdict = (await Runner.run(critic, line, session=histories["critic"])).final_output_as(Verdict)
        print(f"{number}: {line.strip()}\n   rhythm {verdict.rhythm}, surprise {verdict.surprise}")
        task = f"The critic gave {verdict.rhythm} for rhythm and {verdict.surprise} for surprise. Write the next line."
    await client.close()


if __name__ == "__main__":
    asyncio.run(main())
