"""An assistant in the terminal: answers as they come, commands, and what every turn took."""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from elmas.agents.endpoint import RequestRecord
from elmas.agents.model import Model, session_header
from elmas.agents.programs.conversation import Conversation, Turn
from elmas.agents.programs.terminal import Terminal
from elmas.errors import UserError

HELP = """\
/system TEXT  set the system prompt; without TEXT show it
/reset        forget the conversation, keep the system prompt
/save FILE    write the conversation to a file
/load FILE    go on with one that was saved
/stats        what every turn took: prompt tokens, cached ones, TTFT, tokens per second
/help         this list
/quit         leave; so does Ctrl-D
Ctrl-C        stop an answer
A line that ends with \\ goes on in the next one; a first / is doubled to say it."""


@dataclass(frozen=True)
class ChatOptions:
    """How the model answers."""

    temperature: float = 0.7
    max_tokens: int = 512


class Chat:
    """One conversation at a time with a model that is open; every conversation is a session of its own."""

    def __init__(self, model: Model, options: ChatOptions, conversation: Conversation) -> None:
        self.conversation = conversation
        self._model = model
        self._options = options
        self._session = _new_session()
        self._is_kept = False

    async def say(self, text: str, on_text: Callable[[str], None]) -> RequestRecord:
        """Return the answer to `text`, of which `on_text` gets every piece as it comes.

        A failed answer leaves the conversation as it was, so that the same can be said again. When this is cancelled,
        what had come stands as the answer.
        """
        pieces: list[str] = []

        def take(piece: str) -> None:
            pieces.append(piece)
            on_text(piece)

        try:
            record = await self._model.endpoint.chat(
                self.conversation.with_question(text),
                headers=session_header(self._session),
                on_text=take,
                temperature=self._options.temperature,
                max_tokens=self._options.max_tokens,
            )
        except asyncio.CancelledError:
            if pieces:
                self.conversation.add(text, "".join(pieces), Turn(was_interrupted=True))
            raise
        if record.error is None:
            self.conversation.add(text, record.text, Turn.of(record))
            self._is_kept = False
        return record

    async def begin(self, conversation: Conversation) -> None:
        """Go on with another conversation; the server may forget the one before, unless it was saved."""
        await self.end()
        self.conversation = conversation
        self._session = _new_session()
        self._is_kept = False

    async def end(self) -> None:
        """Tell the server that this conversation does not go on, unless it was saved."""
        if self.conversation.turns and not self._is_kept:
            await self._model.done(self._session)

    def save(self, path: Path) -> None:
        """Write the conversation to a file; raises UserError when that cannot be written."""
        self.conversation.save(path)
        self._is_kept = True


def run_chat(model: Model, terminal: Terminal, options: ChatOptions, conversation: Conversation) -> int:
    """Talk until the input ends or somebody quits; opens and closes the model. Returns how many answers failed.

    The loop of events runs only while an answer comes: so Ctrl-C there is a cancelled answer, and at the prompt what it
    is everywhere else. Raises UserError as `Model` does, and KeyboardInterrupt when the input is no terminal.
    """
    n_failed = 0
    with asyncio.Runner() as runner:
        runner.run(model.__aenter__())
        try:
            chat = Chat(model, options, conversation)
            if terminal.is_interactive:
                terminal.note(f"{model.name} at {model.endpoint.base_url}; /help lists the commands")
            for line in terminal.lines("> "):
                if line.startswith("/") and not line.startswith("//"):
                    if not _command(runner, chat, terminal, line):
                        break
                elif line.strip():
                    n_failed += not _answer(runner, chat, terminal, line.removeprefix("/"))
            runner.run(chat.end())
        finally:
            runner.run(model.__aexit__(None, None, None))
    return n_failed


def _answer(runner: asyncio.Runner, chat: Chat, terminal: Terminal, text: str) -> bool:
    """Show the answer to a text; returns False when none came."""
    try:
        record = runner.run(chat.say(text, terminal.write))
    except KeyboardInterrupt:
        if not terminal.is_interactive:
            raise
        terminal.write("\n")
        terminal.note("(interrupted)")
        return True
    terminal.write("\n")
    if record.error is not None:
        terminal.note(f"no answer: {record.error}")
    elif record.finish_reason == "length":
        terminal.note("(cut off: raise --max-tokens)")
    return record.error is None


def _command(runner: asyncio.Runner, chat: Chat, terminal: Terminal, line: str) -> bool:
    """Do what a line with a slash says; returns False to leave."""
    name, _, rest = line[1:].strip().partition(" ")
    rest = rest.strip()
    try:
        match name:
            case "quit" | "exit":
                return False
            case "help":
                terminal.note(HELP)
            case "system" if rest:
                chat.conversation.system = rest
                terminal.note("(system prompt set; it counts from the next answer on)")
            case "system":
                terminal.note(chat.conversation.system or "(no system prompt)")
            case "reset":
                runner.run(chat.begin(Conversation(chat.conversation.system)))
                terminal.note("(forgotten)")
            case "save" if rest:
                chat.save(Path(rest).expanduser())
                terminal.note(f"(written: {rest})")
            case "load" if rest:
                runner.run(chat.begin(Conversation.load(Path(rest).expanduser())))
                terminal.note(f"({len(chat.conversation.turns)} turns read from {rest})")
            case "save" | "load":
                terminal.note(f"/{name} needs a file: /{name} FILE")
            case "stats":
                terminal.show(stats_table(chat.conversation))
            case _:
                terminal.note(f"no command /{name}: /help lists them; to say it, write //{name}")
    except UserError as error:
        terminal.note(str(error))
    return True


def stats_table(conversation: Conversation) -> Table:
    """Return one row per turn."""
    table = Table("turn", "prompt tokens", "cached", "answer tokens", "TTFT", "tokens/s", "")
    for number, turn in enumerate(conversation.turns, 1):
        table.add_row(
            str(number),
            _number(turn.prompt_tokens),
            _number(turn.cached_tokens),
            _number(turn.completion_tokens),
            "" if turn.ttft_s is None else f"{1000 * turn.ttft_s:.0f} ms",
            "" if turn.tokens_per_s is None else f"{turn.tokens_per_s:.1f}",
            "interrupted" if turn.was_interrupted else "",
        )
    return table


def _number(value: int | None) -> str:
    return "" if value is None else str(value)


def _new_session() -> str:
    return f"chat/{secrets.token_hex(6)}"
