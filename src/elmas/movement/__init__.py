"""What moves when: which blocks are offered, loaded and stored, and what is on its way.

Pure: no vLLM, no torch, no clock, no thread. The adapter carries the decisions out, the simulator plays them.
"""
