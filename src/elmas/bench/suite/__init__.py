"""The runner of the benchmark suite: plans, trials, their files, and statistics over them."""
