"""The entry point `vllm.general_plugins`: vLLM calls `register` once in each of its processes."""

from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory

_CONNECTORS = {
    "ElmasConnector": "elmas.vllm.connector",
    "ElmasNoopConnector": "elmas.vllm.noop",
}


def register() -> None:
    """Make the connectors known to vLLM by name, so that `"kv_connector": "ElmasConnector"` is enough."""
    for name, module in _CONNECTORS.items():
        try:
            KVConnectorFactory.get_connector_class_by_name(name)
        except ValueError:
            KVConnectorFactory.register_connector(name, module, name)
