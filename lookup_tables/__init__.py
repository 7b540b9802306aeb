"""What a latency table is, and the tables: the contract between profiler and pruner.

Begin with `lookup_tables.estimate.LatencyModel`, `lookup_tables.network.Network` and
`lookup_tables.table.LatencyTable`.
"""
