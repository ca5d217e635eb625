"""`elmas simulate`: replay a trace of requests; write traces; compare retention policies on them."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from elmas.cli.console import wide_console

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
    trace: Annotated[Path, typer.Argument(help="trace file, one JSON object per line, or A, B, C or small")],
    cache_only: Annotated[
        bool, typer.Option("--cache-only", help="replay just the accesses, in order, against one tier")
    ] = False,
    host_blocks: Annotated[
        str,
        typer.Option(metavar="N", help="of --cache-only: blocks, or a share of the working set such as 0.25w"),
    ] = "0.5w",
    policy: Annotated[str, typer.Option(metavar="NAME", help="retention policy of the tier")] = "next-use",
    hardware: Annotated[str, typer.Option(metavar="h200|h100|cpu-2-cores", help="machine of the server")] = "h200",
    model_shape: Annotated[str, typer.Option(metavar="NAME", help="shape of the model")] = "llama-3-8b",
    device_blocks: Annotated[int, typer.Option(min=2, help="blocks of the device's cache")] = 4096,
    host_memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="size of host memory for blocks; default: none", show_default=False),
    ] = None,
    connector: Annotated[str, typer.Option(metavar="elmas|offloading", help="offloading: vLLM's own")] = "elmas",
    disk: Annotated[
        str | None, typer.Option(metavar="SIZE", help="size of the disk tier; default: none", show_default=False)
    ] = None,
    disk_bandwidth: Annotated[
        str | None, typer.Option(metavar="SIZE", help="bytes per second each way; default: the machine's")
    ] = None,
    scheduler: Annotated[str, typer.Option(metavar="fcfs|elmas", help="order of waiting requests")] = "elmas",
    window: Annotated[int, typer.Option(min=1, help="waiting requests that are ordered together")] = 10_000,
    max_batched_tokens: Annotated[int, typer.Option(min=1, help="tokens of a step")] = 8192,
    max_running: Annotated[int, typer.Option(min=1, help="requests that run at once")] = 256,
    replicas: Annotated[
        int, typer.Option(min=1, help="servers, each with its sessions and in a process of its own")
    ] = 1,
    bounds: Annotated[bool, typer.Option(help="compute what could be hit at most")] = True,
    hints: Annotated[
        str, typer.Option(metavar="none|trace|correct|wrong", help="what clients say about their sessions")
    ] = "none",
    block_size: Annotated[
        int | None, typer.Option(min=1, help="tokens per block; default: 512, and 16 for A, B, C and small")
    ] = None,
    seed: Annotated[int, typer.Option(help="seed of wrong hints")] = 0,
    json_: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Play TRACE on a simulated server, and show what could have been hit. `elmas simulate TRACE` is the same."""
    from elmas.cli.simulate_server import ServerOptions, play
    from elmas.sim.cache_only import parse_host_blocks, replay_cache_only
    from elmas.sim.hints import hints_for
    from elmas.sim.optimal import look_ahead
    from elmas.sim.packed import pack_trace
    from elmas.sim.traces import DEFAULT_BLOCK_TOKENS, read_trace

    if not cache_only:
        options = ServerOptions(
            hardware=hardware,
            model_shape=model_shape,
            device_blocks=device_blocks,
            host_memory=host_memory,
            policy=policy,
            connector=connector,
            disk=disk,
            disk_bandwidth=disk_bandwidth,
            scheduler=scheduler,
            window=window,
            max_batched_tokens=max_batched_tokens,
            max_running=max_running,
        )
        _print(play(trace, options, hints, seed, block_size, replicas, bounds), json_)
        return
    block_size = block_size or DEFAULT_BLOCK_TOKENS
    packed = pack_trace(read_trace(trace, block_size), block_size)
    future = look_ahead(packed)
    n_blocks = parse_host_blocks(host_blocks, future.peak_live_blocks)
    given = hints_for(hints, packed, future, seed)
    result = replay_cache_only(packed, future, policy, n_blocks, given)
    _print(result.to_json(), json_)


@simulate.command()
def fit(
    hardware: Annotated[str, typer.Argument(help="machine with measured rows: h200")] = "h200",
    rounds: Annotated[int, typer.Option(min=0, help="steps of the fit; 0: only compare")] = 6,
    json_: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Fit a machine's parameters to the rows measured on it, and show measured beside predicted."""
    import json

    from elmas.sim.fit import fit as fit_machine
    from elmas.sim.fit import fit_report
    from elmas.sim.tables import fit_table

    report = fit_report(hardware, fit_machine(hardware, rounds))
    if json_:
        print(json.dumps(report))
    else:
        wide_console(160).print(fit_table(report))


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
    load: Annotated[float, typer.Option(help="sessions come so many times as often as the family's usual")] = 1.0,
    session_ids: Annotated[bool, typer.Option(help="write the name of each request's session")] = True,
) -> None:
    """Write a trace of a family of agents."""
    from dataclasses import replace

    from elmas.sim.generate import TraceRecipe
    from elmas.sim.generate import generate as accesses_of
    from elmas.sim.traces import write_trace

    accesses = accesses_of(TraceRecipe(family, sessions, seed, block_size, load))
    n_written = write_trace(out, accesses if session_ids else (replace(a, session_id=None) for a in accesses))
    print(f"written: {out}, {n_written} requests")


@simulate.command()
def compare(
    families: Annotated[str, typer.Option(help="families of agents; default: all", show_default=False)] = "",
    policies: Annotated[str, typer.Option(help="retention policies; default: all", show_default=False)] = "",
    capacities: Annotated[str, typer.Option(help="sizes of the tier, as shares of the working set")] = "0.25,0.5,0.75",
    seeds: Annotated[str, typer.Option(help="seeds of the traces")] = "1,2,3",
    sessions: Annotated[int, typer.Option(min=1, help="sessions of each trace")] = 300,
    block_size: Annotated[int, typer.Option(min=1, help="tokens per block")] = 64,
    workers: Annotated[int, typer.Option(min=1, help="processes")] = 2,
    result_dir: Annotated[Path, typer.Option(help="where the results go")] = Path("results"),
) -> None:
    """Compare retention policies on generated traces, and check what they must reach; ends with 1 if they do not."""
    import json
    from dataclasses import asdict

    from elmas.bench.progress import RunProgress
    from elmas.sim.compare import ComparePlan
    from elmas.sim.compare import compare as compare_all
    from elmas.sim.gates import judge
    from elmas.sim.tables import comparison_table, verdict_table

    given = {
        "families": _names(families),
        "policies": _names(policies),
        "capacities": _numbers(capacities, "--capacities", float),
        "seeds": _numbers(seeds, "--seeds", int),
    }
    plan = ComparePlan(**{k: v for k, v in given.items() if v}, n_sessions=sessions, block_tokens=block_size)
    console = wide_console(160)
    with RunProgress(console) as progress:
        progress.stage("traces", len(plan.families) * len(plan.seeds))
        result = compare_all(plan, workers, progress.advance)
    verdicts = judge(result)
    result_dir.mkdir(parents=True, exist_ok=True)
    path = result_dir / "retention.json"
    document = result.to_json() | {"demands": [asdict(v) | {"holds": v.holds} for v in verdicts]}
    path.write_text(json.dumps(document, indent=1) + "\n")
    console.print(comparison_table(result))
    short = [verdict for verdict in verdicts if not verdict.holds]
    if short:
        console.print(verdict_table(short))
    print(f"{len(verdicts) - len(short)} of {len(verdicts)} demands are met; written: {path}")
    if short:
        raise typer.Exit(1)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _numbers(text: str, option: str, kind: Callable[[str], Any]) -> tuple[Any, ...]:
    from elmas.errors import UserError

    try:
        return tuple(kind(name) for name in _names(text))
    except ValueError:
        raise UserError(f"{option} is {text!r}: give numbers with commas between them") from None


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
    wide_console(160).print(table)
