"""Starting vLLM servers: what a user may ask for, the exact command it becomes, and the process that runs it.

options         the arms (plain vLLM, no-op connector, MT-APC) and the `--enable-*` flags that select them
command         options to a command line and environment; a pure function
machine         which build of vLLM is installed and which cores may be used, without importing vLLM
defaults        `.env` and environment variables
checks          what would make a start fail, told in one line before it does
guard           the small process between elmas and vLLM that leaves no orphans behind
process         a server as an object: start, wait until ready, read metrics, stop
configurations  the named servers of the benchmark suite

This room starts vLLM as a program and never imports it or PyTorch.
"""
