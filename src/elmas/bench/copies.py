"""How close the copies of blocks come to the speed of the bus: the measurement of `elmas.vllm.copy_cost` as results."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from elmas.bench.machine import describe_machine, describe_versions
from elmas.vllm.copy_cost import CopyRate, engine_rates, plain_rate


@dataclass(frozen=True)
class CopiesResult:
    """The rates of plain copies, and of the copy engine by size of block."""

    batch_bytes: int
    plain: CopyRate
    rates: tuple[CopyRate, ...]

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "benchmark": "copies",
            "machine": describe_machine(),
            "versions": describe_versions(),
            "batch_bytes": self.batch_bytes,
            "plain": asdict(self.plain),
            "rates": [asdict(rate) for rate in self.rates],
        }


def measure_copies(block_bytes: Sequence[int], batch_bytes: int, n_trials: int) -> CopiesResult:
    """Measure batches of `batch_bytes` for every size of block; raises UserError for a size that cannot be copied."""
    rates = [rate for n_bytes in block_bytes for rate in engine_rates(n_bytes, batch_bytes, n_trials)]
    return CopiesResult(batch_bytes, plain_rate(batch_bytes, n_trials), tuple(rates))


def copies_table(result: CopiesResult) -> Table:
    """Return the rates, and their share of what plain copies of whole batches reach."""
    table = Table(title=f"copies of {result.batch_bytes >> 20} MiB at once, GB/s (share of plain copies)")
    for heading in (
        "blocks",
        "to the device",
        "to the host",
        "both ways",
        "launch, us",
        "small copy behind loads / stores, ms",
    ):
        table.add_column(heading, justify="left" if heading == "blocks" else "right")
    for rate in (result.plain, *result.rates):
        cells = [
            f"{value / 1e9:.1f} ({value / limit:.2f})"
            for value, limit in (
                (rate.to_device, result.plain.to_device),
                (rate.to_host, result.plain.to_host),
                (rate.both, result.plain.both),
            )
        ]
        name = "plain" if rate is result.plain else f"{rate.piece_bytes >> 10} KiB, {rate.name}"
        behind = " / ".join("-" if s is None else f"{s * 1e3:.2f}" for s in (rate.behind_load_s, rate.behind_store_s))
        table.add_row(name, *cells, f"{rate.launch_s * 1e6:.0f}", behind)
    return table
