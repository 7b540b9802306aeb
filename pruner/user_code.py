"""A user's own function, named as `file.py:function`."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

from lookup_tables.errors import ContractError


def load_function(name: str, option: str, error: type[ContractError]) -> Callable:
    """The function that `file.py:function` names; raises `error`, which tells the option."""
    file, _, function = name.rpartition(":")
    path = Path(file)
    if path.suffix != ".py" or not path.is_file():
        raise error(f"{path}: no such Python file; {option} expects file.py:function")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(getattr(module, function, None)):
        raise error(f"{path} has no function {function!r}; {option} expects file.py:function")
    return getattr(module, function)
