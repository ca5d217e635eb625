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

    from elmas.agents.crosswords.search import CrosswordsResult
    from elmas.agents.graph.graph import GraphResult
    from elmas.agents.guessing.game import GameResult
    from elmas.agents.mmlu.swarm import SwarmResult
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
    reasoning_tokens: Annotated[int, typer.Option(help="of each answer with --cot, at most")] = 150,
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

    settings = GameSettings(num_participants, num_steps, max_value, _parse_ratio(ratio), cot, reasoning_tokens, seed)
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


def mmlu(
    data: Annotated[
        Path | None,
        typer.Option(
            help="a CSV file of MMLU, or a directory of them; default: forty questions of our own", show_default=False
        ),
    ] = None,
    num_truthful_agents: Annotated[int, typer.Option(help="agents that answer")] = 5,
    num_adversarial_agents: Annotated[int, typer.Option(help="agents that are told to mislead the others")] = 2,
    num_questions: Annotated[
        int | None, typer.Option(help="so many, drawn with the seed; default: all", show_default=False)
    ] = None,
    questions_at_once: Annotated[int, typer.Option(help="questions that are worked on at the same time")] = 8,
    decision: Annotated[str, typer.Option(metavar="majority|consistent|best", help="how the swarm decides")] = (
        "majority"
    ),
    graph: _GraphOption = None,
    model: ModelOption = None,
    base_url: BaseUrlOption = None,
    max_concurrent: MaxConcurrentOption = DEFAULT_MAX_CONCURRENT,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
    seed: SeedOption = 0,
    dump: DumpOption = None,
    trace: TraceOption = None,
) -> None:
    """Let truthful and adversarial agents answer multiple-choice questions, and vote."""
    from elmas.agents.mmlu.questions import SAMPLES, read_questions
    from elmas.agents.mmlu.swarm import SwarmSettings, play
    from elmas.bench.progress import RunProgress

    settings = SwarmSettings(
        num_truthful_agents, num_adversarial_agents, num_questions, decision, questions_at_once, seed
    )
    questions = read_questions(data or SAMPLES)
    connection = Connection(model, base_url, max_concurrent, timeout, seed, trace)
    screen = console()
    with RunProgress(screen) as progress:
        progress.stage("questions", min(len(questions), num_questions or len(questions)))

        async def body(opened: "Model") -> "SwarmResult":
            return await play(settings, questions, opened, progress.advance)

        result = connection.run(body)
    screen.print(_subject_table(result))
    singles = {kind: result.share_right(kind) for kind in ("truthful", "adversarial")}
    said = [f"{kind} agents alone {100 * share:.1f}%" for kind, share in singles.items() if share is not None]
    print(f"accuracy {100 * result.accuracy:.1f}%; {', '.join(said)}")
    write_dump(dump, result.to_json())
    _draw(graph, result.asked[-1].run)
    _end([error for _, _, error in result.failures])


def crosswords(
    data: Annotated[
        Path | None,
        typer.Option(help="a JSON file of mini crosswords; default: puzzles of our own", show_default=False),
    ] = None,
    num_puzzles: Annotated[
        int | None, typer.Option(help="so many, drawn with the seed; default: all", show_default=False)
    ] = None,
    num_steps: Annotated[int, typer.Option(help="boards per puzzle for which words are asked")] = 10,
    breadth: Annotated[int, typer.Option(help="candidates that are judged per step")] = 3,
    puzzles_at_once: Annotated[int, typer.Option(help="puzzles that are worked on at the same time")] = 8,
    graph: _GraphOption = None,
    model: ModelOption = None,
    base_url: BaseUrlOption = None,
    max_concurrent: MaxConcurrentOption = DEFAULT_MAX_CONCURRENT,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
    seed: SeedOption = 0,
    dump: DumpOption = None,
    trace: TraceOption = None,
) -> None:
    """Solve 5x5 crosswords with a tree of thoughts: propose words, judge what they leave open, turn back."""
    from elmas.agents.crosswords.puzzle import SAMPLES, read_puzzles
    from elmas.agents.crosswords.search import SearchSettings, play
    from elmas.bench.progress import RunProgress

    settings = SearchSettings(num_steps, breadth, num_puzzles, puzzles_at_once, seed)
    puzzles = read_puzzles(data or SAMPLES)
    connection = Connection(model, base_url, max_concurrent, timeout, seed, trace)
    screen = console()
    with RunProgress(screen) as progress:
        progress.stage("puzzles", min(len(puzzles), num_puzzles or len(puzzles)))

        async def body(opened: "Model") -> "CrosswordsResult":
            return await play(settings, puzzles, opened, progress.advance)

        result = connection.run(body)
    screen.print(_puzzle_table(result))
    rates = (("letters", result.letter_rate), ("words", result.word_rate), ("games", result.game_rate))
    print("right: " + ", ".join(f"{name} {100 * rate:.1f}%" for name, rate in rates))
    write_dump(dump, result.to_json())
    _draw(graph, result.solved[-1].run)
    _end([error for _, error in result.failures])


def _subject_table(result: "SwarmResult") -> "Table":
    """Return one line per subject."""
    from rich.table import Table

    table = Table(title=f"{len(result.asked)} questions, {len(result.settings.agents)} agents", title_justify="left")
    table.add_column("subject")
    for heading in ("right", "questions"):
        table.add_column(heading, justify="right")
    for subject, (n_right, n_questions) in result.accuracy_by_subject.items():
        table.add_row(subject, str(n_right), str(n_questions))
    return table


def _puzzle_table(result: "CrosswordsResult") -> "Table":
    """Return one line per puzzle."""
    from rich.table import Table

    table = Table(title=f"{len(result.solved)} puzzles", title_justify="left")
    for heading in ("puzzle", "right letters", "right words", "solved", "steps", "turned back"):
        table.add_column(heading, justify="right")
    for number, each in enumerate(result.solved, start=1):
        figures = (each.score.n_letters, each.score.n_words, "yes" if each.score.is_solved else "no")
        table.add_row(str(number), *map(str, figures), str(each.n_steps), str(each.n_turned_back))
    return table


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
