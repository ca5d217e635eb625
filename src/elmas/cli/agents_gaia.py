"""`elmas agents gaia`: agents with tools that answer questions in GAIA's format."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from elmas.cli.agents import (
    DEFAULT_MAX_CONCURRENT,
    DEFAULT_TIMEOUT_S,
    BaseUrlOption,
    Connection,
    DumpOption,
    MaxConcurrentOption,
    ModelOption,
    SeedOption,
    TimeoutOption,
    TraceOption,
    console,
    write_dump,
)

if TYPE_CHECKING:
    from rich.table import Table

    from elmas.agents.gaia.play import GaiaResult, QuestionResult


def gaia(
    questions: Annotated[
        Path | None,
        typer.Option(
            help="a folder with metadata.jsonl and files, as GAIA is published; default: own questions",
            show_default=False,
        ),
    ] = None,
    documents: Annotated[
        Path | None,
        typer.Option(help="a folder that the search finds; default: that of the own questions", show_default=False),
    ] = None,
    level: Annotated[
        int | None, typer.Option(min=1, max=3, help="only questions of this level", show_default=False)
    ] = None,
    max_steps: Annotated[int, typer.Option(help="calls of an agent per question")] = 8,
    num_agents: Annotated[int, typer.Option(help="agents per question; more than one are a swarm")] = 1,
    decision: Annotated[
        str, typer.Option(help="how a swarm decides: majority, consistent or best (the last two ask the model)")
    ] = "majority",
    model: ModelOption = None,
    base_url: BaseUrlOption = None,
    max_concurrent: MaxConcurrentOption = DEFAULT_MAX_CONCURRENT,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
    seed: SeedOption = 0,
    dump: DumpOption = None,
    trace: TraceOption = None,
) -> None:
    """Answer questions with tools: search, reading files, a calculator, and Python in a sandbox."""
    from elmas.agents.gaia.play import GaiaSettings, play

    settings = GaiaSettings(questions, documents, level, max_steps, num_agents, decision, seed)
    connection = Connection(model, base_url, max_concurrent, timeout, seed, trace)
    result = connection.run(lambda asker: play(settings, asker, _tell))
    print(f"Python sandbox: {result.confinement}")
    console().print(_score_table(result))
    write_dump(dump, result.to_json())
    if result.failures:
        typer.echo(f"{len(result.failures)} calls failed, the first with: {result.failures[0]}", err=True)
        raise typer.Exit(1)


def _tell(result: "QuestionResult") -> None:
    """Print what became of one question, in one line."""
    verdict = {True: "right", False: "wrong", None: "unknown"}[result.correct]
    n_calls = sum(len(each.steps) for each in result.attempts)
    answer = f"no answer ({result.error})" if result.answer is None else " ".join(result.answer.split())[:60]
    print(f"{result.question.task_id}: {verdict}, {n_calls} calls, {answer!r}", flush=True)


def _score_table(result: "GaiaResult") -> "Table":
    """Return right answers by level and in all."""
    from rich.table import Table

    table = Table("level", "questions", "right", "accuracy", "calls")
    scores = result.scores()
    n_calls = dict.fromkeys(scores, 0)
    for each in result.results:
        if each.correct is not None:
            n_calls[each.question.level] += sum(len(attempt.steps) for attempt in each.attempts)
    rows = [(str(level), *scores[level], n_calls[level]) for level in scores]
    rows.append(("all", sum(row[1] for row in rows), sum(row[2] for row in rows), sum(row[3] for row in rows)))
    for name, n_right, n_all, n_level_calls in rows:
        table.add_row(
            name, str(n_all), str(n_right), f"{100 * n_right / n_all:.1f}%" if n_all else "", str(n_level_calls)
        )
    return table
