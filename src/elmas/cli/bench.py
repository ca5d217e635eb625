"""`elmas bench`: benchmarks that start their own servers or need none."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from elmas.bench.comparison import ComparisonPlan

bench = typer.Typer(help="Measure what the cache is worth.", no_args_is_help=True)

_TINY = Path("models/tiny")
_RESULTS = Path("results")


@bench.command(name="slice", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def slice_(
    context: typer.Context,
    arms: Annotated[str, typer.Option(help="servers to compare, the control first")] = "noop,mt-apc",
    trials: Annotated[int, typer.Option(help="fresh servers per arm")] = 2,
    agents: Annotated[
        int | None, typer.Option(help="agents; default: a working set of three device caches", show_default=False)
    ] = None,
    rounds: Annotated[int, typer.Option(help="rounds of the workload with reuse")] = 5,
    num_gpu_blocks: Annotated[int, typer.Option(help="KV blocks of 32 tokens on the device")] = 512,
    host_memory: Annotated[str, typer.Option(help="size of the host tier")] = "2GiB",
    scale: Annotated[float, typer.Option(help="multiplies device blocks and agents")] = 1.0,
    seed: Annotated[int, typer.Option(help="seed of all prompts")] = 0,
    model: Annotated[Path, typer.Option(help="model directory; models/tiny is written when it is missing")] = _TINY,
    result_dir: Annotated[Path, typer.Option(help="where results and server logs go")] = _RESULTS,
) -> None:
    """Compare arms on two workloads: returning prefixes larger than the device cache, and no reuse at all.

    Arguments that elmas does not know go to vLLM.
    """
    from elmas.bench.slice import plan_slice

    plan = plan_slice(
        model,
        arms=_names(arms),
        n_agents=agents,
        n_rounds=rounds,
        n_device_blocks=num_gpu_blocks,
        host_memory=host_memory,
        n_trials=trials,
        scale=scale,
        seed=seed,
        vllm_arguments=context.args,
    )
    _compare(plan, result_dir)


@bench.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def tiers(
    context: typer.Context,
    workloads: Annotated[str, typer.Option(help="small, A, B, C")] = "small",
    arms: Annotated[
        str, typer.Option(help="servers to compare, the control first; NAME:key=value changes a setting of the cache")
    ] = "noop,mt-apc-no-disk,mt-apc",
    trials: Annotated[int, typer.Option(help="fresh servers per arm")] = 1,
    agents: Annotated[int | None, typer.Option(help="instead of the workload's", show_default=False)] = None,
    rounds: Annotated[int | None, typer.Option(help="instead of the workload's", show_default=False)] = None,
    num_gpu_blocks: Annotated[int, typer.Option(help="KV blocks on the device")] = 512,
    block_size: Annotated[int, typer.Option(help="tokens per KV block")] = 32,
    host_memory: Annotated[str, typer.Option(help="size of the host tier")] = "256MiB",
    disk: Annotated[Path | None, typer.Option(help="where the disk tier goes, in a directory of its own")] = None,
    disk_capacity: Annotated[str | None, typer.Option(help="size of the disk tier; needed with --disk")] = None,
    max_running: Annotated[
        int | None, typer.Option(help="requests that run at once; default: as many as the device cache holds")
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="play the last round again on a restarted server")] = False,
    seed: Annotated[int, typer.Option(help="seed of all prompts")] = 0,
    model: Annotated[Path, typer.Option(help="model directory; models/tiny is written when it is missing")] = _TINY,
    result_dir: Annotated[Path, typer.Option(help="where results and server logs go")] = _RESULTS,
) -> None:
    """Compare arms on rounds of agents whose histories outgrow the device, host memory, or both.

    Arguments that elmas does not know go to vLLM.
    """
    from elmas.bench.tiers import TierSizes, plan_tiers

    plan = plan_tiers(
        model,
        _names(workloads),
        arms=_names(arms),
        sizes=TierSizes(num_gpu_blocks, host_memory, disk, disk_capacity, block_size),
        n_agents=agents,
        n_rounds=rounds,
        max_running=max_running,
        n_trials=trials,
        restarts=restart,
        seed=seed,
        vllm_arguments=context.args,
    )
    _compare(plan, result_dir)


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
    console = _console()
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
    console = _console()
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
    console = _console()
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
        sizes = [int(name) << 10 for name in _names(block_kib)]
    except ValueError:
        raise UserError(f"--block-kib is {block_kib!r}: write whole numbers, such as 256,2048") from None
    result = measure_copies(sizes, batch_mib << 20, trials)
    write_json(result_dir / "copies.json", result.to_json())
    _console().print(copies_table(result))
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
    with RunProgress(_console()) as progress:
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


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _compare(plan: "ComparisonPlan", result_dir: Path) -> None:
    """Run a comparison, show and write its results; ends the program with 1 when a run is not sound."""
    from elmas.bench.arms import ensure_tiny_model, write_json
    from elmas.bench.comparison import run_comparison
    from elmas.bench.progress import RunProgress
    from elmas.bench.tables import comparison_table, comparison_title

    console = _console()
    if plan.shape.model == _TINY:
        ensure_tiny_model(plan.shape.model)
    path = result_dir / f"{plan.name}.json"
    with RunProgress(console) as progress:
        result = run_comparison(plan, result_dir, progress, lambda so_far: write_json(path, so_far.to_json()))
    for name in result.workload_names:
        console.print(comparison_title(result, name), soft_wrap=True)
        console.print(comparison_table(result, name))
        for arm in plan.arms[1:]:
            for trial, text in enumerate(result.differences(name, arm)):
                if text:
                    print(f"{name}, trial {trial + 1}: answers of {plan.arms[0]} and {arm}: {text}")
    print(f"written: {path}")
    if result.violations:
        for text in result.violations:
            typer.echo(f"not sound: {text}", err=True)
        raise typer.Exit(1)


def _console() -> "Console":
    from rich.console import Console

    # A log has no width of its own: tables must not be cut to 80 columns there.
    console = Console()
    return console if console.is_terminal else Console(width=120)
