"""A full check of a disk directory, whatever wrote it: every record is read and its checksums are computed.

Takes no lock, so a server may be using the directory.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from elmas.tiers.disk.files import Files, ScratchPages
from elmas.tiers.disk.format import PAGE_BYTES, RecordFormat, Verdict
from elmas.tiers.disk.inspect import Contents, OpenedSegment, list_directory, open_segments
from elmas.tiers.disk.scan import Condition

_BATCH_BYTES = 8 << 20


@dataclass(frozen=True)
class Verification:
    """How many records had each verdict: in all, and by file where not all were good.

    A file that is cut short has one TRUNCATED for each slot it lacks. `damaged` files have no usable header, or could
    not be read; `unchecked` ones are of another format version.
    """

    counts: Counter[Verdict] = field(default_factory=Counter)
    bad_files: dict[str, Counter[Verdict]] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether everything that could be checked is as it was written."""
        return not self.bad_files and not self.damaged


def verify_directory(
    directory: Path, on_segment: Callable[[int, int], None] = lambda done, total: None
) -> Verification:
    """Check every record. `on_segment` is called after each segment, with the bytes done and in all.

    A segment that a running server has not sealed yet is being written: only its complete records are counted. Raises
    UserError when the directory cannot be read.
    """
    listing = list_directory(directory)
    pages, payloads = ScratchPages(), ScratchPages()
    result = Verification()
    n_done, n_total = 0, sum(n_bytes for _, n_bytes in listing.segments)
    for segment in open_segments(listing, pages):
        if isinstance(segment.contents, Condition):
            is_other = segment.contents is Condition.FOREIGN
            (result.unchecked if is_other else result.damaged).append(segment.name)
        else:
            is_written = listing.server is not None and not segment.contents.is_sealed
            _verify(listing.files, segment, segment.contents, is_written, pages, payloads, result)
        n_done += segment.n_bytes
        on_segment(n_done, n_total)
    return result


def _verify(
    files: Files,
    segment: OpenedSegment,
    contents: Contents,
    is_written: bool,
    pages: ScratchPages,
    payloads: ScratchPages,
    result: Verification,
) -> None:
    try:
        counts = _count_verdicts(files, segment.fd, contents, pages, payloads)
    except OSError:
        result.damaged.append(segment.name)
        return
    if is_written:
        counts = Counter({Verdict.GOOD: counts[Verdict.GOOD]})
    result.counts.update(counts)
    if counts.total() > counts[Verdict.GOOD]:
        result.bad_files[segment.name] = counts


def _count_verdicts(
    files: Files, fd: int, contents: Contents, pages: ScratchPages, payloads: ScratchPages
) -> Counter[Verdict]:
    header, present = contents.header, contents.present
    shape = header.shape
    records = RecordFormat(header.namespace_digest, shape.payload_bytes)
    counts = Counter({Verdict.TRUNCATED: contents.n_slots_lost}) if contents.n_slots_lost else Counter[Verdict]()
    n_at_once = max(1, _BATCH_BYTES // shape.record_bytes)
    for first in range(0, len(present), n_at_once):
        slots = range(first, min(first + n_at_once, len(present)))
        rows = payloads.take(len(slots) * shape.payload_bytes // PAGE_BYTES).reshape(len(slots), shape.payload_bytes)
        headers = pages.take(len(slots))
        buffers = [part for record in zip(headers, rows, strict=True) for part in record]
        n = files.preadv(fd, buffers, shape.offset_of(first)) // shape.record_bytes
        keys = [contents.keys[slot].tobytes() for slot in slots]
        verdicts = records.check(headers[:n], header.segment, first, keys[:n], list(rows[:n]))
        verdicts += [Verdict.TRUNCATED] * (len(slots) - n)
        counts.update(verdict for slot, verdict in zip(slots, verdicts, strict=True) if present[slot])
    return counts
