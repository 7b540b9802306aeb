"""A user's own function, named as `file.py:function`."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from lookup_tables.errors import ContractError


def call_function(name: str, option: str, error: type[ContractError]) -> object:
    """What the function that `file.py:function` names returns, called without arguments.

    Raises `error`, which tells the option and the line at fault.
    """
    return guarded_function(name, option, error, "without arguments")()


def guarded_function(
    name: str, option: str, error: type[ContractError], given: str
) -> Callable[..., Any]:
    """The function that `file.py:function` names; what it raises becomes `error`.

    That tells the option, the line at fault, and what the function is `given`.
    """
    function = load_function(name, option, error)

    def call(*arguments: object) -> object:
        try:
            return function(*arguments)
        except ContractError:  # says already what is wrong
            raise
        except Exception as fault:  # whatever a user's function raises
            raise error(f"{name} failed: {_told(fault)}; {option} calls it {given}") from fault

    return call


def load_function(name: str, option: str, error: type[ContractError]) -> Callable:
    """The function that `file.py:function` names; raises `error`, which tells the option.

    The file is run once, and can import what lies beside it.
    """
    file, _, function = name.rpartition(":")
    path = Path(file)
    if path.suffix != ".py" or not path.is_file():
        raise error(f"{path}: no such Python file; {option} expects file.py:function")
    try:
        module = _load(path.resolve(), path.stat().st_mtime_ns)
    except Exception as fault:  # whatever a user's file raises
        raise error(
            f"{path} cannot be loaded: {_told(fault)}; {option} expects file.py:function"
        ) from fault
    if not callable(getattr(module, function, None)):
        raise error(f"{path} has no function {function!r}; {option} expects file.py:function")
    return getattr(module, function)


def _told(fault: Exception) -> str:
    """What went wrong in a user's code, and where."""
    last = traceback.extract_tb(fault.__traceback__)[-1]
    where = f"{last.filename}, line {last.lineno}"
    if isinstance(fault, SyntaxError):
        where = f"{fault.filename}, line {fault.lineno}"
    return f"{type(fault).__name__}: {fault} ({where})"


@lru_cache
def _load(path: Path, changed_ns: int) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None  # the path ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    beside = str(path.parent)
    if beside not in sys.path:
        sys.path.append(beside)  # last: a user's file never hides a package
    former = sys.modules.get(spec.name)
    is_free = former is None or getattr(former, "__file__", None) == str(path)
    if is_free:
        sys.modules[spec.name] = module  # dataclasses and pickles look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        if is_free:
            del sys.modules[spec.name]
        raise
    return module
