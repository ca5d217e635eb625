"""`elmas model NAME DIR`: write a model directory without a download."""

import shlex
from pathlib import Path
from typing import Annotated

import typer


def model(
    name: Annotated[str, typer.Argument(help="tiny, llama-3.2-1b, llama-3-8b, qwen3-32b or llama-3-70b")],
    directory: Annotated[Path, typer.Argument(help="directory to write")],
    seed: Annotated[int, typer.Option(help="seed of the random weights")] = 0,
    force: Annotated[bool, typer.Option("--force", help="replace a directory that is not an elmas model")] = False,
) -> None:
    """Write a model without a download: `tiny` with random weights, the others as shapes for dummy weights."""
    from rich.console import Console
    from rich.table import Table

    from elmas.errors import UserError
    from elmas.models.presets import TOKENIZER_VOCABULARY, find_preset, kv_bytes_per_token, n_parameters
    from elmas.models.writer import write_model
    from elmas.units import format_bytes

    preset = find_preset(name)
    try:
        result = write_model(preset, directory, seed=seed, force=force)
    except OSError as error:
        raise UserError(f"cannot write {directory} ({error.strerror}): choose another directory") from None
    table = Table(show_header=False)
    table.add_row("model", f"{preset.name}: {preset.note}")
    table.add_row("parameters", f"{n_parameters(preset) / 1e6:,.1f} million ({preset.dtype})")
    table.add_row("KV cache per token", format_bytes(kv_bytes_per_token(preset)))
    table.add_row("vocabulary", f"{preset.vocab_size:,} ({TOKENIZER_VOCABULARY:,} in the tokenizer)")
    table.add_row("on disk", format_bytes(result.n_bytes))
    options = " --dtype float32" if preset.has_weights else " --load-format dummy"
    verb = "wrote" if result.written else "already complete:"
    console = Console(markup=False, highlight=False, soft_wrap=True)
    console.print(f"{verb} {directory}")
    console.print(table)
    console.print("Its answers mean nothing. Set ignore_eos and max_tokens in a request for an exact length.")
    console.print(f"serve it: elmas serve {shlex.quote(str(directory))}{options}")
