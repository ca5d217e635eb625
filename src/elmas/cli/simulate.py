"""`elmas simulate`: replay a trace of requests; write traces; compare retention policies on them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from rich.console import Console

_REPLAY = "trace"


class _TraceOrCommand(TyperGroup):
    """`elmas simulate TRACE ...` means `elmas simulate trace TRACE ...`, unless the first word is a command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [_REPLAY, *args]
        return super().parse_args(ctx, args)


simulate = typer.Typer(
    cls=_TraceOrCommand,
    help="Replay a trace of requests in the Mooncake format: elmas simulate TRACE [OPTIONS].",
    no_args_is_help=True,
)


@simulate.command(name=_REPLAY)
def trace_(
    trace: Annotated[Path, typer.Argument(help="trace file, one JSON object per line")],
    cache_only: Annotated[
        bool, typer.Option("--cache-only", help="replay just the accesses, in order, against one tier")
    ] = False,
    host_blocks: Annotated[
        str, typer.Option(metavar="N", help="blocks of the tier, or a share of the working set such as 0.25w")
    ] = "0.5w",
    policy: Annotated[str, typer.Option(metavar="NAME", help="retention policy of the tier")] = "next-use",
    hints: Annotated[
        str, typer.Option(metavar="none|trace|correct|wrong", help="what clients say about their sessions")
    ] = "none",
    block_size: Annotated[int, typer.Option(min=1, help="tokens per block of the trace")] = 512,
    seed: Annotated[int, typer.Option(help="seed of wrong hints")] = 0,
    json_: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Replay TRACE and show what was hit, beside what could have been. `elmas simulate TRACE` is the same."""
    from elmas.errors import UserError
    from elmas.sim.cache_only import parse_host_blocks, replay_cache_only
    from elmas.sim.hints import hints_for
    from elmas.sim.optimal import look_ahead
    from elmas.sim.packed import pack_trace
    from elmas.sim.traces import read_trace

    if not cache_only:
        raise UserError("only the accesses can be replayed: add --cache-only")
    packed = pack_trace(read_trace(trace, block_size), block_size)
    future = look_ahead(packed)
    n_blocks = parse_host_blocks(host_blocks, future.peak_live_blocks)
    given = hints_for(hints, packed, future, seed)
    result = replay_cache_only(packed, future, policy, n_blocks, given)
    _print(result.to_json(), json_)


@simulate.command()
def generate(
    family: Annotated[
        str,
        typer.Argument(help="cyclic, cyclic-shuffled, cyclic-churn, tool-agents, chats, scans or swarm"),
    ],
    out: Annotated[Path, typer.Option(help="file to write")],
    sessions: Annotated[int, typer.Option(min=1, help="sessions, or agents, of the trace")] = 300,
    seed: Annotated[int, typer.Option(min=0, help="seed of everything")] = 0,
    block_size: Annotated[int, typer.Option(min=1, help="tokens per block")] = 512,
    session_ids: Annotated[bool, typer.Option(help="write the name of each request's session")] = True,
) -> None:
    """Write a trace of a family of agents."""
    from dataclasses import replace

    from elmas.sim.generate import TraceRecipe
    from elmas.sim.generate import generate as accesses_of
    from elmas.sim.traces import write_trace

    accesses = accesses_of(TraceRecipe(family, sessions, seed, block_size))
    n_written = write_trace(out, accesses if session_ids else (replace(a, session_id=None) for a in accesses))
    print(f"written: {out}, {n_written} requests")


def _print(result: dict[str, Any], as_json: bool) -> None:
    """Print a result as one JSON object, or as a table with shares of the prompt tokens."""
    import json

    from rich.table import Table

    if as_json:
        print(json.dumps(result))
        return
    table = Table(show_header=False)
    for name, value in result.items():
        values = value.items() if isinstance(value, dict) else (("", value),)
        for part, number in values:
            label = f"{name.replace('_', ' ')} {part}".strip()
            share = f"{100 * number / result['prompt_tokens']:.1f}%" if "hit_tokens" in name else ""
            table.add_row(label, f"{number:,}" if isinstance(number, int) else str(number), share)
    _console().print(table)


def _console() -> "Console":
    from rich.console import Console

    # A log has no width of its own: tables must not be cut to 80 columns there.
    console = Console()
    return console if console.is_terminal else Console(width=160)
