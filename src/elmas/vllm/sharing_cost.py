"""What it costs the thread that launches the model when another one takes requests in; see `elmas.vllm.threads`."""

import sys
import threading
import time
from dataclasses import dataclass

import torch

from elmas.vllm.bare_scheduler import RequestMaker
from elmas.vllm.threads import SWITCH_INTERVAL_S

PYTHONS_SWITCH_INTERVAL_S = 0.005

_PROMPT_TOKENS = 5000
_MEASURED_S = 3.0
_REQUESTS = 200


@dataclass(frozen=True)
class SharingCost:
    """What a small operation costs, in microseconds, that lets go of the interpreter, and how many requests of 5,000
    tokens a second another thread takes in meanwhile. Without an interval there is only one of the two."""

    switch_interval_s: float | None
    operation_microseconds: float
    requests_per_s: float


def sharing_costs() -> list[SharingCost]:
    """Return the costs of either thread alone, of both with Python's own switch interval, and with ours."""
    before_s = sys.getswitchinterval()
    try:
        return [_measure(interval_s) for interval_s in (None, PYTHONS_SWITCH_INTERVAL_S, SWITCH_INTERVAL_S)]
    finally:
        sys.setswitchinterval(before_s)


def _measure(switch_interval_s: float | None) -> SharingCost:
    intake = _Intake()
    if switch_interval_s is None:
        return SharingCost(None, 1e6 * _operation_s(), intake.rate_alone())
    sys.setswitchinterval(switch_interval_s)
    with intake:
        operation_s, rate = _operation_s(), intake.rate()
    return SharingCost(switch_interval_s, 1e6 * operation_s, rate)


def _operation_s() -> float:
    """Return the mean over some time: an operation may wait for the other thread or not, as it happens."""
    left, right, out = (torch.zeros(64, 64) for _ in range(3))
    n_operations = 0
    begin_s = time.perf_counter()
    while (spent_s := time.perf_counter() - begin_s) < _MEASURED_S:
        for _ in range(10):
            torch.mm(left, right, out=out)
        n_operations += 10
    return spent_s / n_operations


class _Intake:
    """A thread that takes in one request after the other, as vLLM's does in a burst, while it is entered."""

    def __init__(self) -> None:
        self._maker = RequestMaker(16)
        self._prompt = list(range(_PROMPT_TOKENS))
        self._n_requests = 0
        self._begun_s = 0.0
        self._ends = False
        self._thread = threading.Thread(target=self._run, name="intake", daemon=True)

    def __enter__(self) -> "_Intake":
        self._thread.start()
        while self._n_requests == 0:
            time.sleep(0.001)
        self._n_requests, self._begun_s = 0, time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self._ends = True
        self._thread.join()

    def rate(self) -> float:
        """Requests a second so far."""
        return self._n_requests / (time.perf_counter() - self._begun_s)

    def rate_alone(self) -> float:
        """Requests a second without another thread."""
        self._begun_s = time.perf_counter()
        while self._n_requests < _REQUESTS:
            self._take_in()
        return self.rate()

    def _run(self) -> None:
        while not self._ends:
            self._take_in()

    def _take_in(self) -> None:
        self._maker.make("request", self._prompt, 1)
        self._n_requests += 1
