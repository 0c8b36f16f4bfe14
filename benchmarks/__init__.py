"""Benchmarks that anyone can run, and their results."""
