"""From a table's rows to predictions: seconds with an interval, for any architecture."""
