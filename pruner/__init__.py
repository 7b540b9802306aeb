"""Prunes a model to a latency budget by reading a table; needs PyTorch, never the device.

Begin with `pruner.run.prune.prune`, `pruner.run.settings.Settings`, `pruner.graph.trace.trace` and
`pruner.run.compare.compare_methods`.

What a user can get wrong stands here; commands print it without a traceback.
"""

from lookup_tables.errors import ContractError


class ModelError(ContractError):
    """A model that is unknown or that its weights do not fit."""


class TraceError(ContractError):
    """A model that cannot be turned into a network file; names the layer."""


class DataError(ContractError):
    """A data set that is missing or broken; says how to get it."""


class RunError(ContractError):
    """A run folder that cannot be used or resumed."""


class SearchError(RunError):
    """A search that ended without a network within the budget."""


class ExportError(ContractError):
    """An exported model that does not compute what PyTorch computes."""
