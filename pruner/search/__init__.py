"""Searching architectures within a latency budget, against a table."""
