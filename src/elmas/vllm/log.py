"""The adapter's logger: a child of vLLM's, so that its lines appear in the server's log in vLLM's format."""

from vllm.logger import init_logger

logger = init_logger("vllm.elmas")
