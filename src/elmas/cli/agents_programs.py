"""`elmas agents chat`, `complete` and `profile`: programs for people, on any OpenAI-compatible endpoint."""

import asyncio
import secrets
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from elmas.cli.agents import DEFAULT_TIMEOUT_S, BaseUrlOption, Connection, ModelOption, TimeoutOption, console

if TYPE_CHECKING:
    from rich.table import Table

    from elmas.agents.programs.profiling import Group, GroupResult

_TemperatureOption = Annotated[float, typer.Option(min=0.0, max=2.0, help="0: always the likeliest token")]


def chat(
    system: Annotated[str, typer.Option(help="what the assistant is told before the conversation")] = "",
    load: Annotated[
        Path | None, typer.Option(help="go on with a conversation that /save wrote", show_default=False)
    ] = None,
    temperature: _TemperatureOption = 0.7,
    max_tokens: Annotated[int, typer.Option(min=1, help="of one answer")] = 512,
    model: ModelOption = None,
    base_url: BaseUrlOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Talk to an assistant; /help lists what it understands. Also reads its lines from a pipe."""
    from elmas.agents.model import Model
    from elmas.agents.programs.chat import ChatOptions, run_chat
    from elmas.agents.programs.conversation import Conversation
    from elmas.agents.programs.terminal import Terminal

    conversation = Conversation() if load is None else Conversation.load(load)
    conversation.system = system or conversation.system
    endpoint = Connection(model, base_url, timeout_s=timeout).endpoint()
    if run_chat(Model(endpoint), Terminal(), ChatOptions(temperature, max_tokens), conversation):
        raise typer.Exit(1)


def complete(
    prompt: Annotated[
        str | None,
        typer.Argument(help="the text to continue; default: what is piped in, else line by line", show_default=False),
    ] = None,
    temperature: _TemperatureOption = 0.7,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="draw from the likeliest tokens of this mass")] = 0.9,
    max_tokens: Annotated[int, typer.Option(min=1, help="of one answer")] = 256,
    stop: Annotated[
        list[str] | None, typer.Option(help="end before this text; may be repeated", show_default=False)
    ] = None,
    echo: Annotated[bool, typer.Option("--echo", help="begin the answer with the prompt")] = False,
    frequency_penalty: Annotated[float, typer.Option(min=-2.0, max=2.0, help="against repetition")] = 0.0,
    model: ModelOption = None,
    base_url: BaseUrlOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Continue a text, without a chat template. What it took is told on standard error."""
    from elmas.agents.model import Model
    from elmas.agents.programs.completion import CompletionOptions, run_completions
    from elmas.agents.programs.terminal import Terminal

    terminal = Terminal()
    if prompt is None and not sys.stdin.isatty():
        prompt = terminal.read_all()
    options = CompletionOptions(temperature, top_p, max_tokens, tuple(stop or ()), echo, frequency_penalty)
    endpoint = Connection(model, base_url, timeout_s=timeout).endpoint()
    if run_completions(Model(endpoint), terminal, options, prompt):
        raise typer.Exit(1)


def profile(
    size: Annotated[int, typer.Option(min=1, help="conversations per group")] = 4,
    max_tokens: Annotated[int, typer.Option(min=1, help="of one answer")] = 2,
    seed: Annotated[
        str | None, typer.Option(help="equal seeds send equal prompts; default: new ones", show_default=False)
    ] = None,
    profiler: Annotated[
        bool, typer.Option("--profiler/--no-profiler", help="start and stop the server's profiler around it")
    ] = True,
    command: Annotated[
        str | None,
        typer.Option(help="profile the server while this command runs, instead of the prompts", show_default=False),
    ] = None,
    model: ModelOption = None,
    base_url: BaseUrlOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Send prompts that show what a server's cache does, while its profiler runs (elmas serve --profiling)."""
    from elmas.agents.programs.profiling import make_groups, run_profiled
    from elmas.errors import UserError

    connection = Connection(model, base_url, timeout_s=timeout)
    if command is not None:
        if not profiler:
            raise UserError("--command is for the profiler: drop it or --no-profiler")
        status = asyncio.run(run_profiled(connection.endpoint(), shlex.split(command)))
        _tell_where()
        raise typer.Exit(status)
    groups = make_groups(size, seed or secrets.token_hex(8))
    results = _play(connection, groups, max_tokens, profiler)
    console().print(_groups_table(results))
    if profiler:
        _tell_where()
    errors = [error for result in results for error in result.errors]
    if errors:
        typer.echo(f"{len(errors)} calls failed, the first with: {errors[0]}", err=True)
        raise typer.Exit(1)


def _play(connection: Connection, groups: "list[Group]", max_tokens: int, profiler: bool) -> "list[GroupResult]":
    from contextlib import nullcontext

    from rich.progress import Progress

    from elmas.agents.model import Model
    from elmas.agents.programs.profiling import GroupResult, play_group, profiled

    screen = console()
    n_calls = sum(len(script.questions) for group in groups for script in group.scripts)
    with Progress(console=screen, transient=True, disable=not screen.is_terminal) as progress:
        task = progress.add_task("profile", total=n_calls)

        async def body(opened: Model) -> list[GroupResult]:
            async with profiled(opened.endpoint) if profiler else nullcontext():
                return [await play_group(opened, group, max_tokens, lambda: progress.advance(task)) for group in groups]

        return connection.run(body)


def _groups_table(results: "list[GroupResult]") -> "Table":
    from rich.table import Table

    table = Table("prompts", "calls", "prompt tokens", "cached", "TTFT of new ones", "TTFT of the others")
    for result in results:
        cached = [record.cached_tokens for record in result.records if record.cached_tokens is not None]
        table.add_row(
            result.group.name,
            str(len(result.records)),
            str(sum(record.prompt_tokens for record in result.records)),
            str(sum(cached)) if cached else "",
            *(_mean_ms([record.ttft_s for record in part]) for part in (result.new, result.again)),
        )
    return table


def _mean_ms(times_s: list[float | None]) -> str:
    known = [time_s for time_s in times_s if time_s is not None]
    return f"{1000 * sum(known) / len(known):.1f} ms" if known else ""


def _tell_where() -> None:
    print("profiled: the trace is where the server's --profile-dir says (traces); Perfetto shows it")
