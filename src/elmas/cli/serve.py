"""`elmas serve`: vLLM's OpenAI-compatible server with the multi-tier prefix cache."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from elmas.errors import UserError


def _whole_number(option: str, lowest: int, highest: int) -> Callable[[str], int]:
    """Return a parser for `option` whose error is one line, where Typer's own would draw a box."""

    def parse(text: str) -> int:
        if not text.isdecimal() or not lowest <= int(text) <= highest:
            raise UserError(f"{option} is {text!r}: write a whole number from {lowest} to {highest}")
        return int(text)

    return parse


def _bytes(option: str) -> Callable[[str], int]:
    def parse(text: str) -> int:
        from elmas.units import parse_bytes

        return parse_bytes(text, option)

    return parse


_FEATURES = "Mechanisms (none given: all on; else exactly the given ones)"
_SERVER = "Server"
_CACHE = "Cache"


def serve(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL] [VLLM ARGUMENTS]...",
            help="Model directory or hub id (default: DEFAULT_MODEL), then any arguments of vLLM's server.",
        ),
    ] = None,
    host_memory: Annotated[
        int | None,
        typer.Option(
            metavar="SIZE",
            parser=_bytes("--host-memory"),
            rich_help_panel=_CACHE,
            help="Host memory for KV blocks, such as 8GiB (default: a quarter of what is free).",
        ),
    ] = None,
    device_memory: Annotated[
        int | None,
        typer.Option(
            metavar="SIZE",
            parser=_bytes("--device-memory"),
            rich_help_panel=_CACHE,
            help="Device memory for KV blocks (default: vLLM decides; on CPU a quarter of what is free).",
        ),
    ] = None,
    policy: Annotated[
        str | None, typer.Option(metavar="NAME", rich_help_panel=_CACHE, help="Retention policy of the host tier.")
    ] = None,
    disk: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            rich_help_panel=_CACHE,
            help="Directory of the disk tier, for this server alone (default: no disk tier).",
        ),
    ] = None,
    disk_capacity: Annotated[
        int | None,
        typer.Option(
            metavar="SIZE",
            parser=_bytes("--disk-capacity"),
            rich_help_panel=_CACHE,
            help="What the disk tier may take, such as 200GiB; needed with --disk.",
        ),
    ] = None,
    disk_write_rate: Annotated[
        int | None,
        typer.Option(
            metavar="SIZE",
            parser=_bytes("--disk-write-rate"),
            rich_help_panel=_CACHE,
            help="Limit of the writes to disk per second (default: half of what the disk was measured to write, "
            "a tenth where it is much slower than computing).",
        ),
    ] = None,
    disk_write_per_day: Annotated[
        int | None,
        typer.Option(
            metavar="SIZE",
            parser=_bytes("--disk-write-per-day"),
            rich_help_panel=_CACHE,
            help="Limit of the writes to disk per day (default: none).",
        ),
    ] = None,
    scheduler_window_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=_whole_number("--scheduler-window-size", 1, 100_000),
            rich_help_panel=_CACHE,
            help="How many waiting requests are ordered together.",
        ),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(rich_help_panel=_SERVER, help="Address to listen on (default: DEFAULT_HOST, 127.0.0.1)."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            metavar="PORT",
            parser=_whole_number("--port", 1, 65535),
            rich_help_panel=_SERVER,
            help="Port to listen on (default: DEFAULT_PORT, 8000).",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="auto|cpu|cuda",
            rich_help_panel=_SERVER,
            help="Insist on a build of vLLM (default: DEFAULT_DEVICE, auto).",
        ),
    ] = None,
    connector: Annotated[
        str | None,
        typer.Option(
            metavar="mt-apc|noop|none",
            rich_help_panel=_SERVER,
            help="What is plugged into vLLM: elmas, a connector that does nothing, or nothing.",
        ),
    ] = None,
    profiling: Annotated[
        bool, typer.Option("--profiling", rich_help_panel=_SERVER, help="Enable POST /start_profile and /stop_profile.")
    ] = False,
    profile_dir: Annotated[
        Path, typer.Option(metavar="DIR", rich_help_panel=_SERVER, help="Where --profiling writes its traces.")
    ] = Path("traces"),
    preemption_mode: Annotated[
        str | None,
        typer.Option(
            metavar="recompute", rich_help_panel=_SERVER, help="Accepted for compatibility: vLLM always recomputes."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", rich_help_panel=_SERVER, help="Print the command instead of running it.")
    ] = False,
    enable_prefix_caching: Annotated[
        bool,
        typer.Option("--enable-prefix-caching", rich_help_panel=_FEATURES, help="vLLM's own cache in device memory."),
    ] = False,
    enable_multi_tier_prefix_caching: Annotated[
        bool,
        typer.Option(
            "--enable-multi-tier-prefix-caching",
            rich_help_panel=_FEATURES,
            help="The tiers in host memory and on disk.",
        ),
    ] = False,
    enable_async_swapping: Annotated[
        bool,
        typer.Option("--enable-async-swapping", rich_help_panel=_FEATURES, help="Copy while the model computes."),
    ] = False,
    enable_prefix_aware_scheduling: Annotated[
        bool,
        typer.Option(
            "--enable-prefix-aware-scheduling",
            rich_help_panel=_FEATURES,
            help="Order waiting requests by where their prefixes are.",
        ),
    ] = False,
    enable_async_prefetching: Annotated[
        bool,
        typer.Option(
            "--enable-async-prefetching",
            rich_help_panel=_FEATURES,
            help="Read blocks from disk as soon as a request arrives; without it when its turn has come.",
        ),
    ] = False,
) -> None:
    """Serve MODEL with vLLM's OpenAI-compatible API and the multi-tier prefix cache.

    Options of vLLM's server may follow MODEL and are passed on unchanged. Defaults come from the environment and .env.
    """
    from elmas.serve.arguments import has_option
    from elmas.serve.checks import check_start
    from elmas.serve.command import build_command
    from elmas.serve.defaults import ServeDefaults
    from elmas.serve.machine import Machine
    from elmas.serve.options import Connector, Flags, ServeOptions, resolve_arm
    from elmas.serve.process import run_foreground
    from elmas.settings import CacheSettings

    defaults = ServeDefaults.load()
    model, extra = _split_model(model, context.args, defaults.default_model)
    flags = Flags(
        prefix_caching=enable_prefix_caching,
        multi_tier=enable_multi_tier_prefix_caching,
        async_swapping=enable_async_swapping,
        prefix_aware_scheduling=enable_prefix_aware_scheduling,
        async_prefetching=enable_async_prefetching,
    )
    if connector is not None and connector not in list(Connector):
        raise UserError(f"--connector is {connector!r}: choose one of {', '.join(Connector)}")
    no_prefix_caching = has_option(extra, "--no-enable-prefix-caching")
    arm = resolve_arm(flags, None if connector is None else Connector(connector), no_prefix_caching)
    if preemption_mode not in (None, "recompute"):
        raise UserError(
            f"--preemption-mode is {preemption_mode!r}: vLLM only recomputes, use recompute or leave it out"
        )

    given = {
        "host_memory": host_memory,
        "policy": policy,
        "disk": disk,
        "disk_capacity": disk_capacity,
        "disk_write_rate": disk_write_rate,
        "disk_write_per_day": disk_write_per_day,
        "scheduler_window_size": scheduler_window_size,
    }
    asked: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    mechanisms = {"async_copies": arm.async_copies, "reorder": arm.reorder, "prefetch": arm.prefetch}
    cache = CacheSettings.parse(mechanisms | asked)

    _notice(preemption_mode is not None, "--preemption-mode=recompute has no effect: vLLM always recomputes")
    for name in asked:
        _notice(
            arm.connector is not Connector.MT_APC,
            f"--{name.replace('_', '-')} has no effect: the multi-tier cache is off",
        )
    if arm.connector is Connector.MT_APC and cache.disk is None:
        unused = {
            "--enable-async-prefetching": enable_async_prefetching,
            "--disk-write-rate": disk_write_rate is not None,
            "--disk-write-per-day": disk_write_per_day is not None,
        }
        for option, is_given in unused.items():
            _notice(is_given, f"{option} has no effect without a disk tier: add --disk and --disk-capacity")

    api_key = os.environ.get("VLLM_API_KEY")
    if not api_key and defaults.openai_api_key is not None:
        api_key = defaults.openai_api_key.get_secret_value()
    options = ServeOptions(
        model=model,
        host=host or defaults.default_host,
        port=port or defaults.default_port,
        device=device or defaults.default_device,
        connector=arm.connector,
        prefix_caching=arm.prefix_caching,
        cache=cache,
        device_memory_bytes=device_memory,
        profile_dir=profile_dir if profiling else None,
        api_key=api_key,
        vllm_arguments=tuple(
            argument for argument in extra if not has_option([argument], "--no-enable-prefix-caching")
        ),
    )
    machine = Machine.detect()
    command = build_command(options, machine)
    if dry_run:
        _notice(
            bool(api_key) and "OPENAI_API_KEY" not in os.environ,
            "the API key is not shown: export OPENAI_API_KEY before running the command",
        )
        print(command.shell_line())
        return
    check_start(options, machine)
    if options.profile_dir is not None:
        options.profile_dir.mkdir(parents=True, exist_ok=True)
    sys.exit(run_foreground(command))


def _split_model(first: str | None, rest: list[str], default: str | None) -> tuple[str, list[str]]:
    """Return the model and vLLM's arguments; Typer hands over the first word it does not know as the model."""
    model, extra = first, list(rest)
    if first is not None and first.startswith("-"):
        model, extra = None, [first, *rest]
    named = None
    for index, argument in enumerate(extra):
        if argument == "--model" and index + 1 < len(extra):
            named, extra = extra[index + 1], extra[:index] + extra[index + 2 :]
            break
        if argument.startswith("--model="):
            named, extra = argument.removeprefix("--model="), extra[:index] + extra[index + 1 :]
            break
    if model is not None and named is not None:
        raise UserError(f"two models, {model} and {named}: drop one of them")
    model = model or named or default
    if model is None:
        raise UserError("no model: write elmas serve MODEL [OPTIONS], with MODEL first, or set DEFAULT_MODEL")
    return model, extra


def _notice(when: bool, text: str) -> None:
    if when:
        print(f"elmas: note: {text}", file=sys.stderr)
