"""`elmas agents town`: the small town of generative agents."""

from collections.abc import Sequence
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

    from elmas.agents.town.result import TownResult

_MOST_ROWS = 30


def town(
    num_agents: Annotated[int, typer.Option(help="people who live in the town")] = 5,
    num_ticks: Annotated[int, typer.Option(help="steps of the town's clock, from 6 in the morning")] = 8,
    minutes_per_tick: Annotated[int, typer.Option(help="how far the clock moves per step")] = 15,
    model: ModelOption = None,
    base_url: BaseUrlOption = None,
    max_concurrent: MaxConcurrentOption = DEFAULT_MAX_CONCURRENT,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
    seed: SeedOption = 0,
    dump: DumpOption = None,
    trace: TraceOption = None,
) -> None:
    """Let a small town live: people with plans and memories, who ask the model where to go and what matters."""
    from rich.progress import Progress

    from elmas.agents.town.result import Action, TownSettings, clock
    from elmas.agents.town.simulation import play

    settings = TownSettings(num_agents, num_ticks, seed, minutes_per_tick)
    screen = console()
    with Progress(console=screen, transient=True, disable=not screen.is_terminal) as progress:
        task = progress.add_task("", total=num_ticks)

        def on_tick(tick: int, actions: Sequence[Action]) -> None:
            progress.update(task, advance=1, description=clock(settings.minute(tick)))
            if not screen.is_terminal:
                n_new = sum(action.since_tick == tick for action in actions)
                print(f"{clock(settings.minute(tick))}  {n_new} of {num_agents} begin something new", flush=True)

        connection = Connection(model, base_url, max_concurrent, timeout, seed, trace)
        result = connection.run(lambda asker: play(settings, asker, on_tick))
    screen.print(_people_table(result))
    screen.print(_calls_table(result))
    for news in result.news:
        names = [result.people[index].name for index in result.known_by(news)]
        who = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        print(f"{clock(settings.minute(news.tick))} {news.text}: known to {who or 'nobody'}")
    write_dump(dump, result.to_json())
    if result.failures:
        failure = result.failures[0]
        typer.echo(f"{len(result.failures)} calls failed, the first with: {failure.answer.error}", err=True)
        raise typer.Exit(1)


def _people_table(result: "TownResult") -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table("", "doing", "where", "", "memories")
    rows = list(zip(result.people, result.actions[-1], result.memories, strict=True))
    for person, action, memories in rows[:_MOST_ROWS]:
        # Texts of the model: not to be taken for markup.
        cells = (person.name, action.activity, str(action.place), action.signs, str(len(memories)))
        table.add_row(*map(Text, cells))
    if len(rows) > _MOST_ROWS:
        table.caption = f"and {len(rows) - _MOST_ROWS} more"
    return table


def _calls_table(result: "TownResult") -> "Table":
    from rich.table import Table

    table = Table("decision", "calls", "of no use", "prompt tokens", "cached", "TTFT")
    for kind, n_calls in result.n_calls.items():
        mine = [decision for decision in result.decisions if decision.kind == kind]
        records = [decision.answer.record for decision in mine]
        cached = [record.cached_tokens for record in records if record.cached_tokens is not None]
        times_s = [record.ttft_s for record in records if record.ttft_s is not None]
        table.add_row(
            kind.value,
            str(n_calls),
            str(sum(decision.values is None for decision in mine)),
            str(sum(record.prompt_tokens for record in records)),
            str(sum(cached)) if cached else "",
            f"{1000 * sum(times_s) / len(times_s):.0f} ms" if times_s else "",
        )
    return table
