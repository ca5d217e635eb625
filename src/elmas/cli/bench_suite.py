"""`elmas bench run`, `experiments`, `gpu` and `summary`: the benchmark suite."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from elmas.cli.console import wide_console
from elmas.errors import UserError

if TYPE_CHECKING:
    from elmas.bench.suite.plan import SuitePlan
    from elmas.bench.suite.presets import Choices
    from elmas.bench.suite.servers import ExternalServer

_TINY = Path("models/tiny")
_LLAMA = Path("models/llama-3-8b")

_Benchmarks = Annotated[str | None, typer.Option(help="workloads, separated by commas", show_default=False)]
_Servers = Annotated[
    str | None,
    typer.Option(
        help="servers, separated by commas; NAME:key=value changes a setting of the cache", show_default=False
    ),
]
_Trials = Annotated[int | None, typer.Option(help="how often each workload is played on each server", min=1)]
_Results = Annotated[Path, typer.Option(help="where results, results.csv and server logs go")]
_Clear = Annotated[bool, typer.Option("--clear-result-dir", help="remove the results that are there")]
_Resume = Annotated[bool, typer.Option("--resume", help="run only what has no result there yet")]
_Scale = Annotated[
    float | None, typer.Option(help="multiplies agents and requests; default: 0.02 without a GPU, else 1", min=0.0001)
]
_Seed = Annotated[int, typer.Option(help="of all workloads")]
_Blocks = Annotated[int | None, typer.Option(help="KV blocks on the device; default: 8,192 tokens", min=2)]
_BlockSize = Annotated[int | None, typer.Option(help="tokens per block; default: 32 without a GPU, else 16", min=1)]
_Host = Annotated[str | None, typer.Option(help="size of the host tier; default: 2GiB")]
_Disk = Annotated[Path | None, typer.Option(help="where disk tiers go, each in a directory of its own")]
_Capacity = Annotated[str | None, typer.Option(help="size of the disk tier; needed with --disk")]
_Running = Annotated[
    int | None, typer.Option(help="requests that run at once; default: as many as the device cache holds, 8 to 256")
]
_ModelLen = Annotated[int | None, typer.Option(help="longest request in tokens; default: what the workloads need")]
_Fresh = Annotated[
    bool | None,
    typer.Option(
        "--fresh-servers/--reuse-servers",
        help="a server per trial, or one for all workloads, its caches emptied in between; "
        "default: reuse without a GPU, where a start takes longer than a workload",
        show_default=False,
    ),
]
_Percentiles = Annotated[str, typer.Option(help="percentiles of TTFT, TPOT, ITL and E2EL")]
_Data = Annotated[
    list[str] | None, typer.Option("--dataset", help="NAME=PATH with sharegpt, mmlu, gaia or trace; repeatable")
]
_Baseline = Annotated[
    str | None,
    typer.Option(
        help="what the others are compared with; default: apc, else noop, else the first server", show_default=False
    ),
]


def run(
    context: typer.Context,
    benchmarks: _Benchmarks = None,
    servers: _Servers = None,
    num_trials: _Trials = None,
    result_dir: _Results = Path("results/suite"),
    clear_result_dir: _Clear = False,
    resume: _Resume = False,
    scale: _Scale = None,
    seed: _Seed = 42,
    model: Annotated[
        str | None, typer.Option(help="model directory, by default models/tiny; with --endpoint: its name there")
    ] = None,
    num_gpu_blocks: _Blocks = None,
    block_size: _BlockSize = None,
    host_memory: _Host = None,
    disk: _Disk = None,
    disk_capacity: _Capacity = None,
    max_running: _Running = None,
    max_model_len: _ModelLen = None,
    fresh_servers: _Fresh = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="stop each server after its workload, start it again and play once more")
    ] = False,
    profiling: Annotated[
        bool,
        typer.Option(
            "--profiling", help="profile every trial: traces for Perfetto below --result-dir; slower, so not to compare"
        ),
    ] = False,
    percentiles: _Percentiles = "90,95,99",
    dataset: _Data = None,
    endpoint: Annotated[
        str | None, typer.Option(help="URL of a server that runs already, instead of --servers (key: OPENAI_API_KEY)")
    ] = None,
    baseline: _Baseline = None,
) -> None:
    """Play workloads on servers, by default the original's eight on noop, apc and mt-apc, and compare them.

    Arguments that elmas does not know go to vLLM.
    """
    from elmas.bench.suite.plan import ENDPOINT
    from elmas.bench.suite.presets import Choices, parse_datasets, plan_run
    from elmas.bench.suite.servers import ExternalServer

    external = None
    if endpoint is not None:
        if servers is not None or restart or profiling or context.args:
            raise UserError(
                "--endpoint measures a server that runs already: "
                "drop --servers, --restart, --profiling and arguments for vLLM"
            )
        external = ExternalServer.connect(endpoint, model, os.environ.get("OPENAI_API_KEY", ""))
    choices = Choices(
        model=Path(model or _TINY) if external is None else Path(),
        device=_device() if external is None else "cpu",
        benchmarks=_names(benchmarks),
        servers=_names(servers) if external is None else (ENDPOINT,),
        n_trials=num_trials,
        scale=scale,
        seed=seed,
        datasets=parse_datasets(dataset or ()),
        n_device_blocks=num_gpu_blocks,
        block_size=block_size,
        host_memory=host_memory,
        disk=disk,
        disk_capacity=disk_capacity,
        max_running=max_running,
        max_model_len=max_model_len,
        fresh_servers=fresh_servers,
        restarts=restart,
        profiling=profiling,
        percentiles=_percentages(percentiles),
        vllm_arguments=tuple(context.args),
    )
    _execute([plan_run(choices)], choices, result_dir, clear_result_dir, resume, baseline, external)


def experiments(
    context: typer.Context,
    num_trials: _Trials = None,
    result_dir: _Results = Path("results/experiments"),
    clear_result_dir: _Clear = False,
    resume: _Resume = False,
    scale: _Scale = None,
    seed: _Seed = 42,
    model: Annotated[Path, typer.Option(help="model directory; models/tiny is written when it is missing")] = _TINY,
    num_gpu_blocks: _Blocks = None,
    block_size: _BlockSize = None,
    host_memory: Annotated[str | None, typer.Option(help="default: as large as the device cache")] = None,
    fresh_servers: _Fresh = None,
    percentiles: _Percentiles = "90,95,99",
    dataset: _Data = None,
    baseline: _Baseline = "apc",
) -> None:
    """Run the original's two sets: 5 standard workloads on 8 servers, 5 trials; 3 multi-agent ones on 4, 3 trials.

    Arguments that elmas does not know go to vLLM.
    """
    from elmas.bench.suite.presets import Choices, parse_datasets, plan_experiments

    choices = Choices(
        model=model,
        device=_device(),
        n_trials=num_trials,
        scale=scale,
        seed=seed,
        datasets=parse_datasets(dataset or ()),
        n_device_blocks=num_gpu_blocks,
        block_size=block_size,
        host_memory=host_memory,
        fresh_servers=fresh_servers,
        percentiles=_percentages(percentiles),
        vllm_arguments=tuple(context.args),
    )
    _execute(plan_experiments(choices), choices, result_dir, clear_result_dir, resume, baseline)


def gpu(
    context: typer.Context,
    benchmarks: _Benchmarks = None,
    servers: _Servers = None,
    num_trials: _Trials = None,
    result_dir: _Results = Path("results/gpu"),
    clear_result_dir: _Clear = False,
    resume: _Resume = False,
    scale: _Scale = None,
    seed: _Seed = 0,
    model: Annotated[Path, typer.Option(help="model directory; the shape of Llama 3 8B by default")] = _LLAMA,
    num_gpu_blocks: Annotated[int | None, typer.Option(help="KV blocks on the device; default: 4096", min=2)] = None,
    host_memory: Annotated[str | None, typer.Option(help="size of the host tier; default: 40GiB")] = None,
    disk: _Disk = None,
    disk_capacity: _Capacity = None,
    fresh_servers: _Fresh = None,
    baseline: _Baseline = None,
) -> None:
    """Compare MT-APC on one large GPU with every peer, and with each of its mechanisms switched off.

    Rounds of many agents whose histories outgrow the device cache, and prompts without reuse. Arguments that elmas does
    not know go to vLLM.
    """
    from elmas.bench.suite.presets import Choices, plan_gpu

    choices = Choices(
        model=model,
        device=_device(),
        benchmarks=_names(benchmarks),
        servers=_names(servers),
        n_trials=num_trials,
        scale=scale,
        seed=seed,
        n_device_blocks=num_gpu_blocks,
        host_memory=host_memory,
        disk=disk,
        disk_capacity=disk_capacity,
        fresh_servers=fresh_servers,
        vllm_arguments=tuple(context.args),
    )
    if choices.device != "cuda":
        raise UserError("elmas bench gpu needs an NVIDIA GPU and vLLM's CUDA build: use elmas bench run here")
    _execute([plan_gpu(choices)], choices, result_dir, clear_result_dir, resume, baseline)


def summary(
    directory: Annotated[Path, typer.Argument(help="result directory of a run")],
    baseline: _Baseline = None,
) -> None:
    """Show the results of a run again, and write its results.csv anew."""
    _show(directory, baseline)


def _execute(
    plans: Sequence["SuitePlan"],
    choices: "Choices",
    result_dir: Path,
    clear: bool,
    resume: bool,
    baseline: str | None,
    endpoint: "ExternalServer | None" = None,
) -> None:
    """Run plans one after the other into one directory, then show what came of them."""
    from elmas.bench.arms import MODEL_NAME
    from elmas.bench.progress import RunProgress
    from elmas.bench.suite.measure import Client
    from elmas.bench.suite.resume import prepare_directory
    from elmas.bench.suite.runner import SuiteRun

    if baseline is not None and all(baseline not in plan.servers for plan in plans):
        raise UserError(f"--baseline {baseline!r} is none of the servers {', '.join(plans[0].servers)}")
    prepare_directory(result_dir, clear=clear, resume=resume)
    if endpoint is None:
        _ensure_model(choices.model)
    name, key = (MODEL_NAME, "") if endpoint is None else (endpoint.model, endpoint.api_key)
    with RunProgress(wide_console(140)) as progress:
        for plan in plans:
            SuiteRun(
                plan,
                result_dir,
                progress,
                Client(name, key, percentiles=plan.percentiles),
                endpoint,
                invocation=shlex.join(["elmas", *sys.argv[1:]]),
                device=choices.device,
            ).run()
    _show(result_dir, baseline)


def _show(directory: Path, baseline: str | None) -> None:
    """Print the tables of a result directory; ends the program with 1 when a trial is worthless."""
    from elmas.bench.suite.results import CSV_NAME, Results, write_csv
    from elmas.bench.suite.tables import machine_line, summary_tables
    from elmas.bench.suite.trial import read_trials

    results = Results(tuple(read_trials(directory)))
    if not results.trials:
        raise UserError(f"{directory} holds no results: run elmas bench run --result-dir {directory} first")
    if baseline is not None:
        results.check_baseline(baseline)
    write_csv(results.trials, directory / CSV_NAME)
    console = wide_console(140)
    for table in summary_tables(results, baseline):
        console.print(table.rich())
        for note in table.notes:
            console.print(note, markup=False, highlight=False, soft_wrap=True)
    print(machine_line(results))
    print(f"written: {directory / CSV_NAME}, and a file per trial in {directory}/WORKLOAD/SERVER")
    for text in results.problems:
        typer.echo(f"not sound: {text}", err=True)
    if results.problems:
        raise typer.Exit(1)


def _ensure_model(model: Path) -> None:
    """Write the models that are used without being named, unless they are there."""
    from elmas.bench.arms import ensure_tiny_model
    from elmas.models.presets import find_preset
    from elmas.models.writer import write_model

    if model == _TINY:
        ensure_tiny_model(model)
    elif model == _LLAMA:
        write_model(find_preset("llama-3-8b"), model)


def _device() -> str:
    from elmas.serve.machine import Machine, select_device

    return select_device("auto", Machine.detect().build)


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


def _percentages(text: str) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or any(not 0 <= each <= 100 for each in found):
        raise UserError(f"--percentiles is {text!r}: write numbers from 0 to 100, such as 50,90,99")
    return found
