"""Operators for ONNX Runtime whose convolutions take time in proportion to the weights they keep.

`build.py` compiles them, `convert.py` rewrites a network of plain ONNX so that it uses them, and
`check.py` compares both. `docs/kernels.md` describes the layout, the operators and how to deploy.
"""

from lookup_tables.errors import ContractError

DOMAIN = "latprof.block_sparse"
OPSET = 1  # of the domain: raised when a model for one does not run in another
VERSION = "2"  # of the kernels: raised when they take other times
BLOCKS = (16, 8, 4)  # output channels that are kept or dropped together


class KernelsMissing(ContractError):
    """The operators are not built, and cannot be built here."""


class CannotConvert(ContractError):
    """A model that the operators cannot run."""
