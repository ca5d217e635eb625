"""What is kept, and where: the index of a tier, its pins and its retention policies.

Pure: no vLLM, no torch, no clock, no thread. Times come in as arguments, so the simulator, the property tests and the
server run the same code.
"""
