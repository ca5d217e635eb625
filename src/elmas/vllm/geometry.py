"""Where the bytes of a block lie in vLLM's KV cache tensors.

Nothing is guessed from shapes: addresses and strides of the registered tensors say where block `b` of a layer lies. A
block is a list of segments, one per layer, or one for all layers where the layout keeps a block's layers together.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from elmas.errors import UserError


@dataclass(frozen=True)
class Segment:
    """A contiguous part of every block: `n_bytes` from `address + block * stride_bytes` on."""

    address: int
    stride_bytes: int
    n_bytes: int


@dataclass(frozen=True)
class Geometry:
    """The segments that make up a block of this rank, in the order they take in a host row."""

    n_blocks: int
    segments: tuple[Segment, ...]

    @property
    def block_bytes(self) -> int:
        """Bytes of one block of this rank."""
        return sum(segment.n_bytes for segment in self.segments)


def geometry_of(kv_caches: Mapping[str, torch.Tensor], n_blocks: int) -> Geometry:
    """Return where the blocks of these layers lie. `n_blocks` is the number of blocks the scheduler hands out.

    Raises UserError for a tensor whose blocks are not contiguous: copying it byte by byte would be wrong.
    """
    segments: set[Segment] = set()
    for layer, tensor in kv_caches.items():
        segments.add(_segment(layer, tensor, n_blocks))
    return Geometry(n_blocks, _merged(sorted(segments, key=lambda segment: segment.address)))


def _segment(layer: str, tensor: torch.Tensor, n_blocks: int) -> Segment:
    if tensor.shape[0] % n_blocks:
        raise UserError(
            f"layer {layer} has {tensor.shape[0]} blocks, not a multiple of {n_blocks}: elmas cannot cache it"
        )
    # The attention kernel may cut each of the scheduler's blocks into several of its own.
    n_kernel_blocks = tensor.shape[0] // n_blocks
    sizes = (n_kernel_blocks, *tensor.shape[1:])
    item_bytes = tensor.element_size()
    span = 1 + sum((size - 1) * stride for size, stride in zip(sizes, tensor.stride(), strict=True))
    n_items = 1
    for size in sizes:
        n_items *= size
    if span != n_items:
        raise UserError(
            f"layer {layer} keeps its blocks in pieces (shape {tuple(tensor.shape)}, strides {tensor.stride()}): "
            "choose a KV cache layout whose blocks are contiguous, such as NHD or HND"
        )
    return Segment(tensor.data_ptr(), tensor.stride(0) * n_kernel_blocks * item_bytes, n_items * item_bytes)


def _merged(segments: list[Segment]) -> tuple[Segment, ...]:
    """Join segments that follow each other in every block."""
    joined: list[Segment] = []
    for segment in segments:
        last = joined[-1] if joined else segment
        n_bytes = last.n_bytes + segment.n_bytes
        follows = last.stride_bytes == segment.stride_bytes and last.address + last.n_bytes == segment.address
        if follows and n_bytes <= last.stride_bytes:
            joined[-1] = Segment(last.address, last.stride_bytes, n_bytes)
        else:
            joined.append(segment)
    return tuple(joined)
