"""The adapter to vLLM, and the only room that imports it.

vLLM calls a connector twice over: the scheduler half lives in the engine process and decides, the worker half lives in
each worker process and copies. They share no Python objects: orders travel in the step's metadata, confirmations come
back in the step's output, and the bytes lie in a region that both can map.
"""
