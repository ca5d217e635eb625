"""`elmas agents guessing-game`, `mmlu` and `crosswords`: swarms on graphs."""

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

    from elmas.agents.graph.graph import GraphResult
    from elmas.agents.guessing.game import GameResult
    from elmas.agents.model import Model

_GraphOption = Annotated[
    Path | None, typer.Option("--graph", help="draw the graph of the agents to this SVG file", show_default=False)
]


def guessing_game(
    num_participants: Annotated[int, typer.Option(help="players")] = 20,
    num_steps: Annotated[int, typer.Option(help="rounds")] = 5,
    cot: Annotated[
        bool, typer.Option("--cot", help="players think aloud, and a second call reads the number out of it")
    ] = False,
    max_value: Annotated[int, typer.Option(help="largest number that a player may name")] = 100,
    ratio: Annotated[str, typer.Option(help="what of the average is the target, as 2/3 or 0.5")] = "2/3",
    plot: Annotated[
        Path | None, typer.Option(help="plot the guesses to this PNG or SVG file", show_default=False)
    ] = None,
    graph: _GraphOption = None,
    model: ModelOption = None,
    base_url: BaseUrlOption = None,
    max_concurrent: MaxConcurrentOption = DEFAULT_MAX_CONCURRENT,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
    seed: SeedOption = 0,
    dump: DumpOption = None,
    trace: TraceOption = None,
) -> None:
    """Play "two thirds of the average": each round, whoever names the number nearest to the target wins."""
    from elmas.agents.guessing.game import GameSettings
    from elmas.agents.guessing.play import play
    from elmas.agents.guessing.plot import write_guesses_plot
    from elmas.bench.progress import RunProgress

    settings = GameSettings(num_participants, num_steps, max_value, _parse_ratio(ratio), cot, seed)
    connection = Connection(model, base_url, max_concurrent, timeout, seed, trace)
    screen = console()
    with RunProgress(screen) as progress:

        def on_round(index: int) -> None:
            progress.stage(f"round {index + 1} of {num_steps}", num_participants)

        async def body(opened: "Model") -> "GameResult":
            return await play(settings, opened, on_round, progress.advance)

        result = connection.run(body)
    screen.print(_game_table(result))
    write_dump(dump, result.to_json())
    if plot is not None:
        write_guesses_plot(result, plot)
        print(f"written: {plot}")
    _draw(graph, result.run)
    _end([error for _, _, error in result.failures])


def _game_table(game: "GameResult") -> "Table":
    """Return one line per round."""
    from rich.table import Table

    from elmas.bench.summary import job_completion_time_s

    table = Table(title=f"{game.settings.n_participants} participants", title_justify="left")
    for heading in ("round", "average", "target", "won", "winners", "valid", "seconds"):
        table.add_column(heading, justify="right")
    for index, each in enumerate(game.rounds):
        figures = [f"{value:.2f}" if value is not None else "none" for value in (each.average, each.target)]
        n_valid = sum(turn.guess is not None for turn in each.turns)
        won = str(each.winning_guess) if each.winning_guess is not None else "none"
        seconds = f"{job_completion_time_s(each.records):.2f}"
        table.add_row(str(index + 1), *figures, won, str(len(each.winners)), str(n_valid), seconds)
    return table


def _parse_ratio(text: str) -> float:
    """Return a fraction or a decimal number; raises UserError for anything else."""
    from fractions import Fraction

    from elmas.errors import UserError

    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        raise UserError(f"--ratio is {text!r}: write a fraction such as 2/3, or a number such as 0.5") from None


def _draw(path: Path | None, run: "GraphResult | None") -> None:
    """Write the drawing of a run if one is wanted."""
    from elmas.agents.graph.drawing import write_drawing

    if path is not None and run is not None:
        write_drawing(path, run.graph, run)
        print(f"written: {path}")


def _end(errors: list[str]) -> None:
    """End the program with 1 when answers never came."""
    if errors:
        typer.echo(f"{len(errors)} answers never came, the last one: {errors[-1]}", err=True)
        raise typer.Exit(1)
