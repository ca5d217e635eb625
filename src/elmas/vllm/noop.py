"""A connector that does nothing: the control arm that has a connector's overhead and none of its effects."""

from typing import Any

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, KVConnectorMetadata, SupportsHMA


class NoopMetadata(KVConnectorMetadata):
    """No orders."""


class ElmasNoopConnector(KVConnectorBase_V1, SupportsHMA):
    """Finds nothing, stores nothing."""

    @property
    def requires_kv_delivery(self) -> bool:
        """There is nothing to deliver."""
        return False

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
        """Nothing is ever found."""
        return 0, False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """Nothing to load."""

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        """Return no orders."""
        return NoopMetadata()

    def request_finished_all_groups(
        self, request: Any, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        """The blocks are free at once."""
        return False, None

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Nothing to load."""

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Nothing to wait for."""

    def save_kv_layer(self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any) -> None:
        """Nothing to store."""

    def wait_for_save(self) -> None:
        """Nothing to wait for."""

    def reset_cache(self) -> bool:
        """There is nothing to drop."""
        return True
