"""Who runs next: the order of waiting requests, with its starvation bound.

Pure: no vLLM, no torch, no clock, no thread.
"""
