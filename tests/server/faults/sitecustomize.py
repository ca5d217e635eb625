"""A failing disk under a real server: with this directory in PYTHONPATH, calls on segment files do what a plan says.

The plan is a JSON file, named by ELMAS_TEST_FAULTS and read at every call, that maps a call (`open`, `preadv`,
`pwritev`, `posix_fallocate`, `fdatasync`, `unlink`) to `{"error": errno}`, or to `{"bytes_per_s": speed}`, which makes
it take as long as a disk of that speed would. Without the file, calls are as they were.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PLAN = os.environ.get("ELMAS_TEST_FAULTS", "")
_MARK = "segment-"
_OPEN = os.open


def _fault(name: str) -> dict[str, Any]:
    try:
        fd = _OPEN(_PLAN, os.O_RDONLY)
    except OSError:
        return {}
    try:
        return json.loads(os.read(fd, 1 << 16)).get(name, {})
    finally:
        os.close(fd)


def _is_segment(file: Any) -> bool:
    try:
        path = Path(f"/proc/self/fd/{file}").readlink() if isinstance(file, int) else Path(file)
        return _MARK in path.name
    except (OSError, TypeError):
        return False


def _wrap(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(file: Any, *arguments: Any, **options: Any) -> Any:
        if not _is_segment(file):
            return call(file, *arguments, **options)
        fault = _fault(name)
        if "error" in fault:
            raise OSError(fault["error"], os.strerror(fault["error"]))
        result = call(file, *arguments, **options)
        if "bytes_per_s" in fault and isinstance(result, int):
            time.sleep(result / fault["bytes_per_s"])
        return result

    return wrapped


if _PLAN:
    for _name in ("open", "preadv", "pwritev", "posix_fallocate", "fdatasync", "unlink"):
        setattr(os, _name, _wrap(_name, getattr(os, _name)))
