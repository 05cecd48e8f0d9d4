"""Benchmarks: two things compared in one process."""
