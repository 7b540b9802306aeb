"""What a latency table is, and the tables: the contract between profiler and pruner.

Begin with `lookup_tables.model.latency_model.LatencyModel`, `lookup_tables.network.Network` and
`lookup_tables.table.store.LatencyTable`.
"""
