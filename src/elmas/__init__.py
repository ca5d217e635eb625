"""elmas: a multi-tier, prefix-aware KV cache for vLLM, with agent applications and a benchmark suite."""

__version__ = "0.1.0"
