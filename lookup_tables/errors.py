"""What can be wrong with a file or a question: each message says where, what and what to do."""


class ContractError(ValueError):
    """Base of every error a user can cause and mend; commands print it without a traceback."""


class NetworkError(ContractError):
    """A network file that is missing, broken or inconsistent."""


class ArchitectureError(ContractError):
    """An architecture that its network does not allow."""


class TableError(ContractError):
    """A table that is missing, broken, incomplete or of a newer format."""


class NewerFormat(TableError):
    """A file that only a newer version of the tools can read."""


class DeviceMismatch(ContractError):
    """A table of one device used for another."""


class NotMeasured(ContractError, LookupError):
    """A layer that the table does not hold and that may not be interpolated."""


class BudgetError(ContractError):
    """A latency budget that no architecture meets."""
