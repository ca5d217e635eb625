"""The studies of `elmas simulate`: time over the number of agents, and plots of results."""

from pathlib import Path
from typing import Annotated

import typer


def load(
    agents: Annotated[str, typer.Option(help="numbers of agents")] = "40,80,120,160,240,320,480",
    workload: Annotated[str, typer.Option(help="the rounds that are played: A, B, C or small")] = "A",
    hardware: Annotated[str, typer.Option(help="machine of the server")] = "h200",
    model_shape: Annotated[str, typer.Option(help="shape of the model")] = "llama-3-8b",
    device_blocks: Annotated[int, typer.Option(min=2, help="blocks of the device's cache")] = 4096,
    host_memory: Annotated[str, typer.Option(help="size of host memory for blocks")] = "40GiB",
    block_size: Annotated[int, typer.Option(min=1, help="tokens per block")] = 16,
    result_dir: Annotated[Path, typer.Option(help="where the results go")] = Path("results"),
) -> None:
    """Simulate rounds of more and more agents on servers that keep and order differently."""
    import json

    from elmas.errors import UserError
    from elmas.sim.hardware import hardware as machine
    from elmas.sim.hardware import model_shape as shape
    from elmas.sim.load import LoadPoint, sweep_load, to_json
    from elmas.sim.run import Setup
    from elmas.sim.workloads import find_rounds
    from elmas.units import parse_bytes

    try:
        numbers = [int(number) for number in agents.split(",")]
    except ValueError:
        raise UserError(f"--agents is {agents!r}: give numbers such as 80,160,320") from None
    base = Setup(
        machine(hardware),
        shape(model_shape),
        device_blocks,
        block_tokens=block_size,
        host_bytes=parse_bytes(host_memory, "--host-memory"),
    )

    def report(point: LoadPoint) -> None:
        hits = f"{100 * point.device_share:.1f}% on the device, {100 * point.host_share:.1f}% in host memory"
        print(f"{point.n_agents:6d} agents, {point.arm}: {point.jct_s:.1f} s, {hits}", flush=True)

    rounds = find_rounds(workload)
    points = sweep_load(base, rounds, numbers, report)
    result_dir.mkdir(parents=True, exist_ok=True)
    path = result_dir / "load.json"
    path.write_text(json.dumps(to_json(base, rounds, points), indent=1) + "\n")
    print(f"written: {path}")


def plot(
    results: Annotated[Path, typer.Argument(help="retention.json of `compare`, or load.json of `load`")],
    out: Annotated[Path, typer.Option(help="SVG file to write")],
) -> None:
    """Draw the results of `elmas simulate compare` or `load`."""
    import json

    from elmas.errors import UserError
    from elmas.sim.plots import plot_load, plot_retention

    try:
        document = json.loads(results.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{results} cannot be read ({error}): give the file that compare or load has written") from None
    if "cells" in document:
        plot_retention(document, out)
    elif "points" in document:
        plot_load(document, out)
    else:
        raise UserError(f"{results} has nothing to draw: give the file that compare or load has written")
    print(f"written: {out}")
