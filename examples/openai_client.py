"""The plain openai client against `elmas serve`: a conversation that says when it comes back.

    OPENAI_BASE_URL=http://127.0.0.1:8000/v1 .venv/bin/python examples/openai_client.py

Prompt tokens from the cache are told by servers that were started with --enable-prompt-tokens-details.
"""

import os

from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

QUESTIONS = (
    "I have an hour, two eggs, old bread and an apple. What can I cook?",
    "And if a friend comes who eats no eggs?",
    "Write the shopping list for both of us.",
)
SYSTEM = (
    "You help people who cook with what they find in the kitchen. You ask nothing back, you name amounts and times, "
    "and you never suggest what cannot be bought in a village shop. You answer in at most three sentences."
)


def main() -> None:
    """Ask three questions in one conversation and show what the server had to compute for each."""
    # OPENAI_BASE_URL names the server; a key is needed only where the server demands one.
    client = OpenAI(api_key=os.environ.get("OPENAI_API_KEY") or "none")
    model = client.models.list().data[0].id
    messages: list[ChatCompletionMessageParam] = [{"role": "system", "content": SYSTEM}]
    for number, question in enumerate(QUESTIONS, 1):
        messages.append({"role": "user", "content": question})
        is_last = number == len(QUESTIONS)
        stream = client.chat.completions.create(
            model=model,
            messages=messages,
            max_tokens=40,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
            # The line for elmas: who asks, and that this session goes on in ten seconds, or has ended.
            extra_headers={"X-Session-ID": "cook/1"},
            extra_body={"kv_transfer_params": {"elmas": {"done": True} if is_last else {"next_use_s": 10}}},
        )
        answer, usage = "", None
        for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                answer += choice.delta.content or ""
                print(choice.delta.content or "", end="", flush=True)
        messages.append({"role": "assistant", "content": answer})
        details = usage.prompt_tokens_details if usage else None
        cached = details.cached_tokens if details else None
        print(
            f"\n[{usage.prompt_tokens if usage else '?'} prompt tokens, {cached if cached is not None else '?'} cached]"
        )


if __name__ == "__main__":
    main()
