"""`elmas disk`: look into, check and clear the directory of a disk tier."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from elmas.cli.console import wide_console

if TYPE_CHECKING:
    from rich.table import Table

    from elmas.tiers.disk.inspect import DirectorySummary, SegmentSummary

disk = typer.Typer(help="Look into, check or clear the directory of a disk tier.", no_args_is_help=True)

_Directory = Annotated[Path, typer.Argument(metavar="DIR", help="directory given to --disk", show_default=False)]

_MAIN_FACTS = ("dtype", "cache_dtype", "block_size", "tensor_parallel_size", "device", "vllm")
_DIGEST_DIGITS = 12


@disk.command()
def inspect(
    directory: _Directory,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Show what a directory holds, by namespace: what was served, and how much of it is there."""
    import json

    from elmas.tiers.disk.inspect import inspect_directory

    summary = inspect_directory(directory)
    if as_json:
        print(json.dumps(_to_json(summary)))
        return
    console = wide_console(160, markup=False, highlight=False, soft_wrap=True)
    console.print(_summary_table(summary))
    kinds = {
        "without a usable header": summary.damaged,
        "of another format version": summary.other_versions,
        "not of elmas": summary.unknown,
    }
    for kind, files in kinds.items():
        if files:
            console.print(f"{len(files)} files {kind}: {_some([name for name, _ in files])}")
    if summary.server is None:
        console.print("no server uses it")
    else:
        console.print(f"in use by a server (process {summary.server or 'unknown'})")


@disk.command()
def verify(directory: _Directory) -> None:
    """Read everything and check it; exits with 1 when a record is not what was written."""
    from rich.progress import Progress

    from elmas.tiers.disk.verify import verify_directory

    console = wide_console(160, markup=False, highlight=False, soft_wrap=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("verify", total=None)
        result = verify_directory(directory, lambda done, total: progress.update(task, completed=done, total=total))
    for verdict, n_records in sorted(result.counts.items(), key=lambda item: item[0].value):
        console.print(f"{n_records} records {verdict.value}")
    if not result.counts:
        console.print("no records")
    for name, counts in result.bad_files.items():
        console.print(f"{name}: " + ", ".join(f"{n} {verdict.value}" for verdict, n in counts.items()))
    for name in result.damaged:
        console.print(f"{name}: no usable header, or it cannot be read")
    for name in result.unchecked:
        console.print(f"{name}: of another format version, not checked")
    if not result.is_good:
        typer.echo("not everything is as it was written: a server drops such records when it reads them", err=True)
        raise typer.Exit(1)


@disk.command()
def clear(
    directory: _Directory,
    namespace: Annotated[
        str | None, typer.Option(help="first digits of the digest of a namespace; default: all", show_default=False)
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
) -> None:
    """Remove the segments of a directory that no server uses; files that are not of elmas stay."""
    from elmas.tiers.disk.directory import check_not_in_use
    from elmas.tiers.disk.inspect import clear_directory, clearable, inspect_directory
    from elmas.units import format_bytes

    summary = inspect_directory(directory)
    check_not_in_use(directory)
    files = clearable(summary, namespace)
    if not files:
        print("nothing to remove")
        return
    what = f"{len(files)} segments ({format_bytes(sum(n_bytes for _, n_bytes in files))}) of {directory}"
    if not yes:
        typer.confirm(f"remove {what}?", abort=True)
    clear_directory(directory, [name for name, _ in files])
    print(f"removed {what}")


def _summary_table(summary: "DirectorySummary") -> "Table":
    from rich.table import Table

    from elmas.units import format_bytes

    table = Table()
    for heading in ("namespace", "model", "facts"):
        table.add_column(heading, overflow="fold")
    for heading in ("block", "segments", "sealed", "blocks", "on disk", "oldest", "newest"):
        table.add_column(heading, justify="right")
    now_s = time.time()
    for group in summary.by_namespace():
        facts, created = _facts(group[0]), [segment.header.created_s for segment in group]
        table.add_row(
            group[0].header.namespace_digest.hex()[:_DIGEST_DIGITS],
            str(facts.get("model", "")),
            ", ".join(f"{name} {_plain(facts[name])}" for name in _MAIN_FACTS if name in facts),
            format_bytes(group[0].header.shape.payload_bytes),
            str(len(group)),
            str(sum(segment.is_sealed for segment in group)),
            str(sum(segment.n_blocks for segment in group)),
            format_bytes(sum(segment.n_bytes for segment in group)),
            _age(now_s - min(created)),
            _age(now_s - max(created)),
        )
    return table


def _to_json(summary: "DirectorySummary") -> dict[str, Any]:
    def files(some: list[tuple[str, int]]) -> list[dict[str, Any]]:
        return [{"name": name, "bytes": n_bytes} for name, n_bytes in some]

    return {
        "directory": str(summary.directory),
        "in_use": summary.server is not None,
        "server_process": summary.server or None,
        "namespaces": [
            {
                "digest": group[0].header.namespace_digest.hex(),
                "facts": _facts(group[0]),
                "block_bytes": group[0].header.shape.payload_bytes,
                "segments": len(group),
                "sealed_segments": sum(segment.is_sealed for segment in group),
                "blocks": sum(segment.n_blocks for segment in group),
                "bytes": sum(segment.n_bytes for segment in group),
                "oldest_created_s": min(segment.header.created_s for segment in group),
                "newest_created_s": max(segment.header.created_s for segment in group),
            }
            for group in summary.by_namespace()
        ],
        "damaged": files(summary.damaged),
        "other_versions": files(summary.other_versions),
        "unknown": files(summary.unknown),
    }


def _facts(segment: "SegmentSummary") -> dict[str, Any]:
    import json

    facts: dict[str, Any] = json.loads(segment.header.namespace_text)
    return facts


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(str(item) for item in value if item not in (None, [], {}))
    return str(value)


def _age(seconds: float) -> str:
    """Return how long ago something was, in its largest unit."""
    for n_s, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= n_s:
            return f"{seconds / n_s:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
