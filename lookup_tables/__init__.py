"""What a latency table is, and the tables: the contract between profiler and pruner."""
