"""What the suite measures on: a server that it started, or one that runs already."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import httpx

from elmas.bench.arms import ServerShape
from elmas.bench.counters import Samples
from elmas.errors import UserError
from elmas.preflight import least_block_bytes
from elmas.serve.arguments import option_value
from elmas.serve.process import parse_metrics

_TIMEOUT_S = 10.0


class RunningServer(Protocol):
    """A server that answers: `elmas.serve.process.ServerProcess`, or `ExternalServer`."""

    @property
    def base_url(self) -> str:
        """Without a trailing slash and without /v1."""
        ...

    def metrics(self) -> Samples:
        """Return all samples of /metrics; raises httpx.HTTPError when the server does not answer."""
        ...

    def reset_caches(self) -> None:
        """Empty all tiers; raises UserError when that is not possible."""
        ...


@dataclass(frozen=True)
class ExternalServer:
    """A server that somebody else runs, by the URL of its OpenAI-compatible interface."""

    base_url: str
    model: str
    api_key: str = field(default="", repr=False)

    @classmethod
    def connect(cls, url: str, model: str | None, api_key: str = "") -> "ExternalServer":
        """Return the server at `url`, with or without /v1, for `model` (None: its first one).

        Raises UserError when nobody answers there, or not with this model.
        """
        base_url = url.rstrip("/").removesuffix("/v1")
        try:
            response = httpx.get(f"{base_url}/v1/models", headers=_headers(api_key), timeout=_TIMEOUT_S)
            response.raise_for_status()
            known = [str(each["id"]) for each in response.json()["data"]]
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            raise UserError(f"--endpoint {url} answered {status} for /v1/models: check the URL and the key") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise UserError(f"--endpoint {url} cannot be reached ({error}): is the server up?") from None
        except (ValueError, KeyError, TypeError):
            raise UserError(f"--endpoint {url} does not speak OpenAI's protocol: check the URL") from None
        if not known or (model is not None and model not in known):
            has = f"has {', '.join(known)}" if known else "has no model"
            raise UserError(f"--endpoint {url} {has}, not {model!r}: pass the right name with --model")
        return cls(base_url, model or known[0], api_key)

    def metrics(self) -> Samples:
        """Return what vLLM's servers count; nothing for other servers."""
        response = httpx.get(f"{self.base_url}/metrics", headers=_headers(self.api_key), timeout=_TIMEOUT_S)
        if response.status_code != 200:
            return {}
        try:
            return parse_metrics(response.text)
        except ValueError:
            return {}

    def reset_caches(self) -> None:
        """Empty all tiers, where the server has vLLM's route for it (VLLM_SERVER_DEV_MODE=1)."""
        url, params = f"{self.base_url}/reset_prefix_cache", {"reset_external": "true"}
        response = httpx.post(url, params=params, headers=_headers(self.api_key), timeout=_TIMEOUT_S)
        if response.status_code != 200:
            raise UserError(
                f"--endpoint {self.base_url} has no route to empty its caches: start vLLM with VLLM_SERVER_DEV_MODE=1"
            )


@contextmanager
def own_disk(shape: ServerShape) -> Iterator[ServerShape]:
    """Give the shape with a directory of its own below its disk directory, which is removed in the end."""
    if shape.disk is None:
        yield shape
        return
    shape.disk.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="elmas-bench-", dir=shape.disk, ignore_cleanup_errors=True) as directory:
        yield replace(shape, disk=Path(directory))


def block_bytes(shape: ServerShape, device: str) -> int | None:
    """Return the KV bytes of a block of the servers of a shape, all ranks together; None when it is not known."""
    arguments = shape.vllm_arguments
    dtype = option_value(arguments, "--dtype") or ("float32" if device == "cpu" else None)
    kv_dtype = option_value(arguments, "--kv-cache-dtype")
    return least_block_bytes(str(shape.model), shape.block_size, dtype, kv_dtype) or None


def _headers(api_key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}
