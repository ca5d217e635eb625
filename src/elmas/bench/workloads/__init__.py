"""Workloads as data: each is a frozen dataclass of numbers and a small generator of requests."""
