"""A conversation that can be kept in a file, and what each of its answers took."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError

from elmas.agents.endpoint import Message, RequestRecord
from elmas.errors import UserError


@dataclass(frozen=True)
class Turn:
    """What one answer took; None: the server did not say, or there was too little to measure."""

    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    """Prompt tokens that the server did not compute."""
    completion_tokens: int | None = None
    ttft_s: float | None = None
    tokens_per_s: float | None = None
    """After the first token."""
    was_interrupted: bool = False

    @classmethod
    def of(cls, record: RequestRecord) -> Self:
        """Return what a complete answer took."""
        times_s = record.chunk_times_s
        span_s = times_s[-1] - times_s[0] if times_s else 0.0
        n_later = record.completion_tokens - 1
        return cls(
            prompt_tokens=record.prompt_tokens or None,
            cached_tokens=record.cached_tokens,
            completion_tokens=record.completion_tokens or None,
            ttft_s=record.ttft_s,
            tokens_per_s=n_later / span_s if n_later > 0 and span_s > 0 else None,
        )


@dataclass
class Conversation:
    """A system prompt, and messages of user and assistant in turn, one `Turn` for each pair."""

    system: str = ""
    messages: list[dict[str, str]] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)

    def with_question(self, text: str) -> list[Message]:
        """Return what is sent for the next answer; the conversation itself stays as it is until that has come."""
        system: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *self.messages, {"role": "user", "content": text}]

    def add(self, question: str, answer: str, turn: Turn) -> None:
        """Take a question and its answer."""
        self.messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        self.turns.append(turn)

    def save(self, path: Path) -> None:
        """Write it to a file; raises UserError when that cannot be written."""
        content = {"system": self.system, "messages": self.messages, "turns": [asdict(turn) for turn in self.turns]}
        try:
            path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write {path} ({error.strerror}): choose another file") from None

    @classmethod
    def load(cls, path: Path) -> "Conversation":
        """Return what `save` wrote; raises UserError for a file that cannot be read or holds something else."""
        try:
            found = _ADAPTER.validate_json(path.read_bytes())
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from None
        except ValidationError as error:
            first: Any = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the whole"
            raise UserError(f"{path} is no saved conversation ({where}: {first['msg']})") from None
        roles = [message.get("role") for message in found.messages]
        if roles != ["user", "assistant"] * len(found.turns) or not all("content" in each for each in found.messages):
            raise UserError(f"{path} is no saved conversation (user and assistant do not take turns)")
        return found


_ADAPTER = TypeAdapter(Conversation)
