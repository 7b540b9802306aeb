"""Prunes a model to a latency budget by reading a table; needs PyTorch, never the device.

Begin with `pruner.prune.prune`, `pruner.run_folder.Settings`, `pruner.trace.trace` and
`pruner.compare.compare_methods`.
"""
