"""`elmas bench interference`."""

from pathlib import Path
from typing import Annotated

import typer

from elmas.cli.console import wide_console

_TINY = Path("models/tiny")
_LLAMA = Path("models/llama-3-8b")


def interference(
    context: typer.Context,
    streams: Annotated[int | None, typer.Option(help="requests that decode; default: 32, without a GPU 4")] = None,
    tokens: Annotated[int, typer.Option(help="output tokens of each of them")] = 512,
    contexts: Annotated[int | None, typer.Option(help="contexts; default: 48, without a GPU 12")] = None,
    context_tokens: Annotated[
        int | None, typer.Option(help="tokens of a context; default: 3072, without a GPU 1024")
    ] = None,
    interval_ms: Annotated[
        float | None, typer.Option(help="between two contexts; default: 10, without a GPU 200")
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="how often they come; default: 10, without a GPU 3")] = None,
    servers: Annotated[
        str | None, typer.Option(help="servers, separated by commas; default: mt-apc, without stores, and noop")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="model directory; default: the shape of Llama 3 8B, without a GPU the tiny model"),
    ] = None,
    result_dir: Annotated[Path, typer.Option(help="where the results and server logs go")] = Path("results"),
) -> None:
    """Measure what copies cost those that decode: the time between their tokens while others load and store.

    Arguments that elmas does not know go to vLLM.
    """
    from elmas.bench.arms import BLOCK_SIZE, ensure_tiny_model, write_json
    from elmas.bench.interference import SERVERS, InterferencePlan, interference_table, measure_interference
    from elmas.bench.progress import RunProgress
    from elmas.bench.suite.presets import GPU_ARGUMENTS, GPU_BLOCK_SIZE
    from elmas.models.presets import find_preset
    from elmas.models.writer import write_model
    from elmas.serve.machine import Machine, select_device

    device = select_device("auto", Machine.detect().build)
    on_gpu = device == "cuda"
    plan = InterferencePlan(
        n_streams=streams or (32 if on_gpu else 4),
        stream_tokens=tokens,
        n_contexts=contexts or (48 if on_gpu else 12),
        context_tokens=context_tokens or (3072 if on_gpu else 1024),
        interval_s=(interval_ms or (10 if on_gpu else 200)) / 1e3,
        n_rounds=rounds or (10 if on_gpu else 3),
    )
    plan.check()
    if model is None and on_gpu:
        write_model(find_preset("llama-3-8b"), _LLAMA)
    elif model is None:
        ensure_tiny_model(_TINY)
    model = model or (_LLAMA if on_gpu else _TINY)
    arguments = (*(GPU_ARGUMENTS if on_gpu else ()), *context.args)
    shape = plan.shape(model, GPU_BLOCK_SIZE if on_gpu else BLOCK_SIZE, device, arguments)
    names = SERVERS if servers is None else tuple(name.strip() for name in servers.split(","))
    console = wide_console(140)
    with RunProgress(console) as progress:
        result = measure_interference(plan, shape, names, device, result_dir / "logs", progress.stage)
    write_json(result_dir / "interference.json", result.to_json())
    console.print(interference_table(result))
    print(f"written: {result_dir / 'interference.json'}")
