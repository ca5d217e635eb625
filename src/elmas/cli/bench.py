"""`elmas bench`: benchmarks that start their own servers or need none."""

from pathlib import Path
from typing import Annotated

import typer

from elmas.cli.console import wide_console

bench = typer.Typer(help="Measure what the cache is worth.", no_args_is_help=True)

_TINY = Path("models/tiny")
_RESULTS = Path("results")


@bench.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def demo(
    context: typer.Context,
    agents: Annotated[int, typer.Option(help="participants of the game")] = 40,
    rounds: Annotated[int, typer.Option(help="rounds of the game")] = 7,
    num_gpu_blocks: Annotated[int, typer.Option(help="KV blocks of 32 tokens on the device")] = 512,
    host_memory: Annotated[str, typer.Option(help="size of the host tier")] = "2GiB",
    seed: Annotated[int, typer.Option(help="seed of the personas")] = 0,
    port: Annotated[
        int | None, typer.Option(help="port of the servers; default: a free one", show_default=False)
    ] = None,
    model: Annotated[Path, typer.Option(help="model directory; models/tiny is written when it is missing")] = _TINY,
    result_dir: Annotated[Path, typer.Option(help="where results, the plot and server logs go")] = _RESULTS,
) -> None:
    """Play the guessing game with vLLM's own prefix caching, then with MT-APC, and show what the difference is.

    Arguments that elmas does not know go to vLLM.
    """
    from elmas.agents.guessing.game import GameSettings
    from elmas.bench.arms import ensure_tiny_model, write_json
    from elmas.bench.demo import demo_shape, run_demo
    from elmas.bench.demo_report import demo_table, write_plot
    from elmas.bench.progress import RunProgress

    settings = GameSettings(agents, rounds, seed=seed)
    shape = demo_shape(model, num_gpu_blocks, host_memory, port, tuple(context.args))
    console = wide_console(120)
    if model == _TINY:
        ensure_tiny_model(model)
    with RunProgress(console) as progress:
        result = run_demo(shape, settings, result_dir, progress)
    write_json(result_dir / "demo.json", result.to_json())
    write_plot(result, result_dir / "demo.png")
    console.print(demo_table(result))
    print(f"MT-APC finished the same game {result.ratio:.2f} times as fast; {result.verdict}")
    print(f"written: {result_dir / 'demo.json'}, {result_dir / 'demo.png'}")


@bench.command()
def scheduler(
    waiting: Annotated[int, typer.Option(min=1, help="requests that wait while a step is timed")] = 10_000,
    waiting_for_disk: Annotated[int, typer.Option(min=1, help="requests at once whose blocks are on disk")] = 400,
    model: Annotated[Path, typer.Option(help="model directory, of which the configuration is read")] = _TINY,
    result_dir: Annotated[Path, typer.Option(help="where the results go")] = _RESULTS,
) -> None:
    """Time what the cache costs vLLM's scheduler, without a server: per request and per step, against budgets."""
    import os

    os.environ.update(VLLM_LOGGING_LEVEL="ERROR", HF_HUB_OFFLINE="1")
    from elmas.bench.arms import ensure_tiny_model, write_json
    from elmas.bench.scheduler import disk_table, eviction_table, measure_scheduler, request_table, step_table

    if model == _TINY:
        ensure_tiny_model(model)
    result = measure_scheduler(model, waiting, waiting_for_disk)
    write_json(result_dir / "scheduler.json", result.to_json())
    console = wide_console(120)
    console.print(request_table(result))
    console.print(step_table(result))
    console.print(disk_table(result))
    console.print(eviction_table(result))
    print(f"written: {result_dir / 'scheduler.json'}")
    if not result.within_budget:
        typer.echo("over budget", err=True)
        raise typer.Exit(1)


@bench.command()
def disk(
    directory: Annotated[Path, typer.Option(help="where to write, on the disk to be measured")],
    block_bytes: Annotated[int, typer.Option(min=4096, help="bytes of a block, a multiple of 4096")] = 524288,
    n_blocks: Annotated[int, typer.Option(min=1, help="blocks that are written and read per arm and trial")] = 1024,
    run_blocks: Annotated[int, typer.Option(min=1, help="blocks that one operation of the store moves")] = 8,
    queue_depth: Annotated[int, typer.Option(min=1, help="operations at once")] = 4,
    trials: Annotated[int, typer.Option(min=1, help="trials, of which the median counts")] = 3,
    result_dir: Annotated[Path, typer.Option(help="where the results go")] = _RESULTS,
) -> None:
    """Compare the disk store with plain direct I/O in a directory. Takes memory and disk space for all blocks once."""
    from elmas.bench.arms import write_json
    from elmas.bench.disk import GOAL, DiskPlan, disk_table, measure_disk
    from elmas.bench.progress import RunProgress

    plan = DiskPlan(directory, block_bytes, n_blocks, run_blocks, queue_depth, trials)
    plan.check()
    console = wide_console(120)
    with RunProgress(console) as progress:
        progress.stage("trials", plan.n_runs)
        result = measure_disk(plan, progress.advance)
    write_json(result_dir / "disk.json", result.to_json())
    console.print(disk_table(result))
    print(f"goal: {GOAL:.2f} of plain direct I/O; written: {result_dir / 'disk.json'}")
    if not result.meets_goal:
        typer.echo("below the goal", err=True)
        raise typer.Exit(1)


@bench.command()
def copies(
    block_kib: Annotated[str, typer.Option(help="sizes of blocks in KiB")] = "256,2048",
    batch_mib: Annotated[int, typer.Option(min=1, help="MiB that are copied at once")] = 256,
    trials: Annotated[int, typer.Option(min=1, help="trials, of which the median counts")] = 5,
    result_dir: Annotated[Path, typer.Option(help="where the results go")] = _RESULTS,
) -> None:
    """Measure how fast the copy engine of this machine moves blocks, beside plain copies."""
    from elmas.bench.arms import write_json
    from elmas.bench.copies import copies_table, measure_copies
    from elmas.errors import UserError

    try:
        sizes = [int(name) << 10 for name in block_kib.split(",")]
    except ValueError:
        raise UserError(f"--block-kib is {block_kib!r}: write whole numbers, such as 256,2048") from None
    result = measure_copies(sizes, batch_mib << 20, trials)
    write_json(result_dir / "copies.json", result.to_json())
    wide_console(120).print(copies_table(result))
    print(f"written: {result_dir / 'copies.json'}")


@bench.command()
def restart(
    directory: Annotated[Path, typer.Option(help="where to put the directory that is searched")],
    n_blocks: Annotated[int, typer.Option(min=1, help="blocks in the directory")] = 1_000_000,
    block_bytes: Annotated[int, typer.Option(min=4096, help="bytes of a block, a multiple of 4096")] = 65536,
    result_dir: Annotated[Path, typer.Option(help="where the results go")] = _RESULTS,
) -> None:
    """Time how long a server looks for its blocks when it starts. The files are sparse: they take little space."""
    from elmas.bench.arms import write_json
    from elmas.bench.progress import RunProgress
    from elmas.bench.restart import BUDGET_S, MOST_BYTES_PER_BLOCK, measure_restart
    from elmas.errors import UserError

    if block_bytes % 4096:
        raise UserError(f"--block-bytes is {block_bytes}: give a multiple of 4096")
    if not directory.is_dir():
        raise UserError(f"--directory {directory} is no directory: make it first")
    with RunProgress(wide_console(120)) as progress:
        progress.stage("segments")
        result = measure_restart(directory, n_blocks, block_bytes, progress.advance)
    write_json(result_dir / "restart.json", result.to_json())
    print(
        f"{result.n_blocks} blocks in {result.n_segments} segments: found in {result.scan_s:.2f} s, "
        f"entered in {result.index_s:.2f} s, {result.bytes_per_block:.0f} bytes of index per block"
    )
    print(
        f"goal: {BUDGET_S:.0f} s and {MOST_BYTES_PER_BLOCK} bytes for a million; written: {result_dir / 'restart.json'}"
    )
    if not result.meets_goal:
        typer.echo("over budget", err=True)
        raise typer.Exit(1)
