"""`elmas bench workloads` and `elmas bench client`."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from elmas.errors import UserError

_JSON = typer.Option("--json", help="Write the result to this file.", dir_okay=False)


def workloads(
    scale: Annotated[float, typer.Option(help="Show them scaled by this factor.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Decides everything that is random.")] = 42,
) -> None:
    """List the workloads of the suite with their sizes."""
    from elmas.bench.workloads.catalog import WORKLOADS, scaled, workload
    from elmas.bench.workloads.sizes import repeated_share

    table = Table(
        Column("name", no_wrap=True),
        "requests",
        "longest",
        "working set",
        "repeated",
        "what it does",
        title="Workloads",
        box=None,
    )
    for definition in WORKLOADS.values():
        each = scaled(workload(definition.name, seed=seed), scale)
        held = each.working_set_tokens
        repeated = f"{repeated_share(each.requests()):.0%}"
        sizes = (f"{each.n_requests:,}", f"{each.longest_request_tokens:,}", f"{held:,}" if held else "-", repeated)
        table.add_row(definition.name, *sizes, definition.summary)
    console = Console()
    console.print(table)
    console.print("Lengths in tokens. Repeated: share of prompt tokens that an earlier request begins with as well.")


def client(
    streams: Annotated[int, typer.Option(help="Streams that are open at once.")] = 5000,
    tokens: Annotated[int, typer.Option(help="Events of each stream.")] = 60,
    gap_s: Annotated[float, typer.Option(help="Seconds between two events of a stream.")] = 0.5,
    running: Annotated[
        int, typer.Option(help="Streams that emit at once, in step, as vLLM's batch does; 0: all, evenly in time.")
    ] = 0,
    ramp_s: Annotated[float, typer.Option(help="Seconds over which the streams begin.")] = 5.0,
    json_path: Annotated[Path | None, _JSON] = None,
) -> None:
    """Measure how late the load client itself is, against a server that only streams."""
    from elmas.bench.client_benchmark import ClientLoad, measure_client

    result = measure_client(
        ClientLoad(n_streams=streams, n_tokens=tokens, gap_s=gap_s, n_running=running, ramp_s=ramp_s)
    )
    if json_path is not None:
        try:
            json_path.write_text(json.dumps(result.to_json(), indent=2) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {json_path} ({error.strerror}): choose another file") from None
    table = Table("", "mean ms", "median ms", "P99 ms", "max ms", box=None)
    for name, lag in (("lag of the client", result.lag), ("from the server's write", result.chunk_delay)):
        table.add_row(name, *(f"{seconds * 1e3:.2f}" for seconds in (lag.mean_s, lag.p50_s, lag.p99_s, lag.max_s)))
    console = Console()
    console.print(
        f"{result.most_open:,} streams at once, {result.n_failed} failed, {result.chunks_per_s:,.0f} chunks/s for "
        f"{result.wall_s:.0f} s, {result.cpu_us_per_chunk:.1f} us of processor time per chunk"
    )
    console.print(table)
    if result.first_error is not None:
        raise UserError(f"{result.n_failed} streams failed, the first with: {result.first_error}")
