"""What a user can set about the cache, validated in one place.

The same settings travel three ways: arguments of `elmas serve`, the JSON of vLLM's `--kv-transfer-config`
(`kv_connector_extra_config`), and Python. This module knows no vLLM and no torch.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import psutil
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from elmas.cache.retention import POLICIES
from elmas.errors import UserError
from elmas.units import format_bytes, parse_bytes

AUTO_SHARE = 0.25
"""Share of the free memory that the host tier takes when no size is given."""

HEADROOM_BYTES = 512 << 20
"""Free memory that must remain beside the host tier for the server's own processes."""


class CacheSettings(BaseModel):
    """Settings of MT-APC. Every switch turns one mechanism off and leaves a working server: they are the ablations."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host_memory: int | None = Field(
        None, description="bytes of host memory for KV blocks; None: a quarter of what is free"
    )
    policy: str = Field("next-use", description="retention policy of host memory and disk: what goes first")
    hints: bool = Field(True, description="take what clients say about their sessions")
    store: bool = Field(True, description="copy finished blocks to host memory")
    load: bool = Field(True, description="copy blocks back instead of recomputing them")
    async_copies: bool = Field(True, description="copy while the model computes; False: the step waits for its copies")
    reorder: bool = Field(True, description="order waiting requests by where their prefix is")
    gather: bool = Field(
        True,
        description="at the beginning of a round, let requests wait a moment for those whose blocks are on the device",
    )
    entrance: bool = Field(
        True,
        description="with `reorder`: requests enter the API server one after the other, those first that were served a "
        "moment ago, so that the first ones run while the others are parsed",
    )
    scheduler_window_size: int = Field(
        10_000, ge=1, le=100_000, description="waiting requests that are ordered together"
    )
    scheduler_max_overtaken: int = Field(200, ge=0, description="how often a waiting request may be overtaken")
    scheduler_max_wait_s: float = Field(60.0, ge=0, description="seconds after which a request is overtaken no more")
    disk: str | None = Field(None, description="directory of the disk tier, stored as an absolute path; None: no disk")
    disk_capacity: int | None = Field(None, description="bytes that the disk tier may take; needed with `disk`")
    prefetch: bool = Field(
        True,
        description="read blocks from disk as soon as a request arrives; False: when the request's turn has come",
    )
    cost_gate: bool = Field(
        True, description="read from disk only where measured costs say that it pays; False: always read"
    )
    disk_write: bool = Field(True, description="write blocks to disk; False: read only what is there")
    disk_admission: Literal["reuse", "all"] = Field(
        "reuse", description="what is written: blocks with a second use, a returning session or a hint, or all"
    )
    disk_write_rate: int | None = Field(
        None,
        description="bytes per second of writes in the background; None: half of what the disk was measured to write, "
        "a tenth where it is much slower than computing",
    )
    disk_write_per_day: int | None = Field(None, description="bytes per day that are written; None: no limit")
    disk_throttle: int | None = Field(
        None, description="bytes per second that the disk moves at most, as a slower drive would; for benchmarks"
    )
    disk_max_wait_s: float = Field(
        2.0, ge=0, allow_inf_nan=False, description="longest time a request waits for the disk after its turn has come"
    )

    trace: bool = Field(
        False, description="record copies and decisions, as tracks in the traces of vLLM's torch profiler"
    )

    @field_validator("host_memory", mode="before")
    @classmethod
    def _parse_host_memory(cls, value: Any) -> int | None:
        return None if value is None or value == "auto" else parse_bytes(value, "host_memory")

    @field_validator("disk_capacity", "disk_write_rate", "disk_write_per_day", "disk_throttle", mode="before")
    @classmethod
    def _parse_size(cls, value: Any, info: ValidationInfo) -> int | None:
        return None if value is None else parse_bytes(value, str(info.field_name))

    @field_validator("disk")
    @classmethod
    def _absolute_directory(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if not value.strip():
            raise ValueError("--disk is empty: name a directory, or leave it out for no disk tier")
        try:
            return str(Path(value).expanduser().absolute())
        except RuntimeError:
            raise ValueError(f"--disk is {value!r}: no home directory is known for it, write the full path") from None

    @model_validator(mode="after")
    def _disk_and_capacity_together(self) -> Self:
        if self.disk is not None and self.disk_capacity is None:
            raise UserError(
                "--disk needs a size: add --disk-capacity, such as 200GiB (disk_capacity in kv_connector_extra_config)"
            )
        if self.disk is None and self.disk_capacity is not None:
            raise UserError(
                "--disk-capacity has no directory: add --disk DIR (disk in kv_connector_extra_config), or drop it"
            )
        return self

    @field_validator("policy")
    @classmethod
    def _known_policy(cls, value: str) -> str:
        if value not in POLICIES:
            raise ValueError(f"unknown policy {value!r}: choose one of {', '.join(sorted(POLICIES))}")
        return value

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> "CacheSettings":
        """Return validated settings from loose values; raises UserError naming the key and what to change."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"]) or "settings"
            if first["type"] == "extra_forbidden":
                raise UserError(f"unknown setting {key!r}: the settings are {', '.join(cls.model_fields)}") from None
            message = str(first["msg"]).removeprefix("Value error, ")
            raise UserError(message if key in message else f"{key}: {message}") from None

    def to_extra_config(self) -> dict[str, Any]:
        """Return the settings that differ from the defaults, as `kv_connector_extra_config` takes them."""
        return self.model_dump(exclude_defaults=True)

    def host_memory_bytes(self) -> int:
        """Return the bytes of the host tier on this machine; raises UserError when that much is not free."""
        free_bytes = available_memory_bytes()
        if self.host_memory is None:
            return max(1, int(free_bytes * AUTO_SHARE))
        if self.host_memory + HEADROOM_BYTES > free_bytes:
            usable = max(0, free_bytes - HEADROOM_BYTES)
            raise UserError(
                f"host memory of {format_bytes(self.host_memory)} exceeds the {format_bytes(usable)} that are free: "
                "lower --host-memory (host_memory in kv_connector_extra_config)"
            )
        return self.host_memory


def available_memory_bytes() -> int:
    """Return the memory a new process may use: the machine's free memory, or what the control group has left of it."""
    available = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            used = int((group / "memory.current").read_text())
            cached = 0
            for line in (group / "memory.stat").read_text().splitlines():
                if line.startswith("inactive_file "):
                    cached = int(line.split()[1])
            available = min(available, int(limit) - used + cached)
    except (OSError, ValueError):
        pass  # no control group with a limit: the machine's own figure stands
    return max(0, available)
