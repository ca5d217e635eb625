"""Plain completions: a text goes in, its continuation comes out."""

import asyncio
from dataclasses import dataclass
from typing import Any

from elmas.agents.endpoint import RequestRecord
from elmas.agents.model import Model
from elmas.agents.programs.conversation import Turn
from elmas.agents.programs.terminal import Terminal


@dataclass(frozen=True)
class CompletionOptions:
    """How the model goes on."""

    temperature: float = 0.7
    top_p: float = 0.9
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    echo: bool = False
    """Begin the answer with the prompt."""
    frequency_penalty: float = 0.0

    def to_fields(self) -> dict[str, Any]:
        """Return the fields of the request. What is off is left out: not every server knows every field."""
        fields: dict[str, Any] = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_tokens,
        }
        options = {"stop": list(self.stop), "echo": self.echo, "frequency_penalty": self.frequency_penalty}
        return fields | {name: value for name, value in options.items() if value}


def run_completions(model: Model, terminal: Terminal, options: CompletionOptions, prompt: str | None) -> int:
    """Show how the model continues `prompt`, or without one each line that is entered; opens and closes the model.

    Returns how many answers failed. Raises UserError as `Model` does. At a terminal Ctrl-C stops one answer only.
    """
    n_failed = 0
    with asyncio.Runner() as runner:
        runner.run(model.__aenter__())
        try:
            for text in terminal.lines("prompt> ") if prompt is None else [prompt]:
                if text:
                    n_failed += not _continue(runner, model, terminal, options, text, is_alone=prompt is not None)
        finally:
            runner.run(model.__aexit__(None, None, None))
    return n_failed


def _continue(
    runner: asyncio.Runner, model: Model, terminal: Terminal, options: CompletionOptions, text: str, is_alone: bool
) -> bool:
    """Show one answer and what it took; returns False when none came."""
    try:
        record = runner.run(model.endpoint.complete(text, on_text=terminal.write, **options.to_fields()))
    except KeyboardInterrupt:
        if is_alone:
            raise
        terminal.write("\n")
        terminal.note("(interrupted)")
        return True
    terminal.write("\n")
    terminal.note(describe(record))
    return record.error is None


def describe(record: RequestRecord) -> str:
    """Return what an answer took, in one line."""
    if record.error is not None:
        return f"no answer: {record.error}"
    turn = Turn.of(record)
    cached = "" if turn.cached_tokens is None else f" ({turn.cached_tokens} cached)"
    ttft = "" if turn.ttft_s is None else f", TTFT {1000 * turn.ttft_s:.0f} ms"
    speed = "" if turn.tokens_per_s is None else f", {turn.tokens_per_s:.1f} tokens/s"
    return f"({record.prompt_tokens} prompt tokens{cached}, {record.completion_tokens} answered{ttft}{speed})"
