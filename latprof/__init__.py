"""Measures a device into a latency table; needs the device, never PyTorch.

Begin with `latprof.profile.journey.profile`, `latprof.runtimes.here.this_device`,
`latprof.profile.compare.compare_files`, and `latprof.share.push.push` and `pull`.

What a user can get wrong stands here; commands print it without a traceback.
"""

from lookup_tables.errors import ContractError


class OptionError(ContractError):
    """A command's option that makes no sense."""


class PlaceError(ContractError):
    """A shared place that cannot be reached, read or written."""


class DeviceNotHere(ContractError):
    """A device was asked for that this machine does not have."""


class CannotRun(ContractError):
    """A network that the runtime does not open, or does not run."""


class Throttled(ContractError):
    """A GPU that would not run at its own clocks for long enough to be measured."""


class UnmeasuredLayer(ContractError):
    """A layer that no runtime node was named after."""


DISTURBED_EXIT = 6  # a command's exit code


class Disturbed(ContractError):
    """A machine too busy to be measured on: the message says with what."""
