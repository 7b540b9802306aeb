"""What a user can get wrong on the profiling side; printed without a traceback."""

from lookup_tables.errors import ContractError


class DeviceNotHere(ContractError):
    """A device was asked for that this machine does not have."""
