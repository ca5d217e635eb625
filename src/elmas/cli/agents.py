"""`elmas agents`: applications that run on any OpenAI-compatible endpoint, with the options that they share.

The commands of each application are in a module of their own, `agents_<topic>`, and register on `agents` here.
"""

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from elmas.agents.endpoint import Endpoint
    from elmas.agents.model import Model

agents = typer.Typer(help="Run agents on any OpenAI-compatible endpoint.", no_args_is_help=True)

Result = TypeVar("Result")

ModelOption = Annotated[
    str | None,
    typer.Option("--model", help="name of the model at the endpoint; default: its first", show_default=False),
]
BaseUrlOption = Annotated[
    str | None,
    typer.Option(
        "--base-url",
        help="the endpoint; default: OPENAI_BASE_URL, else the server of .env (DEFAULT_HOST, DEFAULT_PORT)",
        show_default=False,
    ),
]
MaxConcurrentOption = Annotated[int, typer.Option("--max-concurrent", min=1, help="calls under way at once")]
TimeoutOption = Annotated[float, typer.Option("--timeout", min=0.1, help="seconds after which a call has failed")]
SeedOption = Annotated[int, typer.Option("--seed", help="seed of all that is drawn")]
DumpOption = Annotated[
    Path | None, typer.Option("--dump", help="write everything that happened to this JSON file", show_default=False)
]
TraceOption = Annotated[
    Path | None,
    typer.Option("--trace", help="write the calls to this file, as elmas simulate reads them", show_default=False),
]

DEFAULT_MAX_CONCURRENT = 256
DEFAULT_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Connection:
    """The shared options that decide how the model is called."""

    model: str | None
    base_url: str | None
    max_concurrent: int = DEFAULT_MAX_CONCURRENT
    timeout_s: float = DEFAULT_TIMEOUT_S
    seed: int = 0
    trace: Path | None = None

    def endpoint(self) -> "Endpoint":
        """Return the endpoint that the options, the environment and `.env` name, in this order; it is not open yet."""
        from elmas.agents.endpoint import Endpoint
        from elmas.serve.defaults import ServeDefaults

        defaults = ServeDefaults.load()
        base_url = self.base_url or os.environ.get("OPENAI_BASE_URL") or ""
        # A server that listens everywhere is reached at this machine's own address.
        host = "127.0.0.1" if defaults.default_host == "0.0.0.0" else defaults.default_host
        return Endpoint(
            base_url or f"http://{host}:{defaults.default_port}/v1",
            self.model or "",
            defaults.openai_api_key.get_secret_value() if defaults.openai_api_key is not None else "",
            self.timeout_s,
        )

    def run(self, body: "Callable[[Model], Awaitable[Result]]") -> Result:
        """Open the model, await `body` with it and return what that returned; then write the trace if one is wanted.

        Raises UserError for an endpoint where nobody listens, or that names no model.
        """
        import asyncio

        from elmas.agents.model import Model
        from elmas.agents.trace import TraceRecorder

        endpoint = self.endpoint()
        recorder = None if self.trace is None else TraceRecorder()

        async def opened() -> Result:
            async with Model(endpoint, max_concurrent=self.max_concurrent, seed=self.seed, trace=recorder) as model:
                return await body(model)

        result = asyncio.run(opened())
        if recorder is not None and self.trace is not None:
            n_calls = recorder.write(self.trace)
            print(f"written: {self.trace}, {n_calls} calls")
        return result


def write_dump(path: Path | None, content: dict[str, Any]) -> None:
    """Write the dump if one is wanted; raises UserError when the file cannot be written."""
    import json

    from elmas.errors import UserError

    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}): choose another file") from None
    print(f"written: {path}")


def console() -> "Console":
    """Return the console; a log has no width of its own, and tables must not be cut to 80 columns there."""
    from rich.console import Console

    found = Console()
    return found if found.is_terminal else Console(width=120)
