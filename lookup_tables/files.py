"""Files that are whole or not there, and that tell their format before anything else."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import ValidationError

from lookup_tables.errors import ContractError, TableError

try:
    import fcntl
except ModuleNotFoundError:  # Windows: nothing is locked there
    fcntl = None


def write_whole(path: str | Path, content: str | bytes | memoryview) -> None:
    """Write a file so that a killed writer leaves the former one, or none.

    What the system refuses (a full disk) leaves no half of it to fill the disk further.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    os.replace(partial, path)


_HELD: set[int] = set()  # locked folders


def _leave_locks_to_the_parent() -> None:
    """A forked process must not keep its parent's locks when that one was killed."""
    for handle in _HELD:
        os.close(handle)
    _HELD.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_locks_to_the_parent)


@contextmanager
def only_writer(folder: str | Path) -> Iterator[None]:
    """Write into a folder as its only process; raises TableError while another one does.

    The lock goes with the process, however it ends, and leaves no file.
    """
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    if not _taken(handle):
        os.close(handle)
        raise TableError(
            f"{folder}: another process is writing into it. Wait for it to end, or write "
            "elsewhere with --out"
        )
    _HELD.add(handle)
    try:
        yield
    finally:
        if handle in _HELD:  # not in a forked process, where it is closed already
            _HELD.remove(handle)
            _let_go(handle)


def _taken(handle: int) -> bool:
    """Take a folder's lock; False where another process holds it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system that knows no locks
    return True


def _let_go(handle: int) -> None:
    with suppress(OSError):  # a file system that knows no locks
        fcntl.flock(handle, fcntl.LOCK_UN)  # at once, whoever else has a copy of the handle
    os.close(handle)


def first_fault(error: ValidationError) -> str:
    """The first thing wrong with a file's content: which field, and what was expected."""
    detail = error.errors()[0]
    where = ".".join(map(str, detail["loc"]))
    return f"{where}: {detail['msg']}" if where else detail["msg"]


def refuse_newer(
    path: str | Path, text: str | bytes, known: int, error: type[ContractError]
) -> None:
    """Raise `error` if a JSON object says a newer `format`.

    Asked before anything else is checked: another format may hold fields unknown here. What is no
    JSON object passes; its reader says so.
    """
    try:
        found = json.loads(text).get("format", known)
    except (ValueError, AttributeError):
        return
    if isinstance(found, int) and found > known:
        raise error(
            f"{path}: format {found} is newer than the {known} this version reads; "
            "upgrade latprof-pruner"
        )
