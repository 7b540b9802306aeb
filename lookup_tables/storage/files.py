"""Files that are whole or not there, and that tell their format before anything else."""

from __future__ import annotations

import json
import os
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

from pydantic import ValidationError

from lookup_tables.errors import ContractError, TableError

fcntl: ModuleType | None
try:
    import fcntl
except ModuleNotFoundError:  # Windows: nothing is locked there
    fcntl = None


PARTIAL = ".partial"  # how an unfinished write's file ends, and an unfinished pull's folder
FORMER = ".former"  # how a table's folder ends while a new one takes its place
LEFT_FOR_S = 60  # no write takes so long


def write_whole(path: str | Path, content: str | bytes | memoryview) -> None:
    """Write a file so that a killed writer, or a power cut, leaves the former one, or none.

    Of several writers at once the last one's content is there, whole. What the system refuses (a
    full disk) leaves no half of it to fill the disk further.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{PARTIAL}")
    try:
        with partial.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Let the new name survive a power cut too, where the system can."""
    with suppress(OSError):  # Windows opens no folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


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

    The lock goes with the process, however it ends, and leaves no file. Where the file system
    knows no locks, a warning says so.
    """
    if fcntl is None:
        _warn_unlocked(folder)
        yield
        return
    handle = _locked(folder)
    _HELD.add(handle)
    try:
        _clear_leftovers(Path(folder))
        yield
    finally:
        if handle in _HELD:  # not in a forked process, where it is closed already
            _HELD.remove(handle)
            _let_go(handle)


def _locked(folder: str | Path) -> int:
    """A handle of the folder with its lock; raises TableError while another process has it."""
    while True:
        handle = os.open(folder, os.O_RDONLY)
        if not _taken(handle, folder):
            os.close(handle)
            raise TableError(
                f"{folder}: another process is writing into it. Wait for it to end, or write "
                "elsewhere with --out"
            )
        if os.path.samestat(os.fstat(handle), os.stat(folder)):
            return handle
        os.close(handle)  # another folder took its place meanwhile


def _clear_leftovers(folder: Path) -> None:
    """What writers left that were killed while they wrote."""
    for path in folder.glob("*." + "[0-9a-f]" * 8 + PARTIAL):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > LEFT_FOR_S:
                path.unlink()


def _taken(handle: int, folder: str | Path) -> bool:
    """Take a folder's lock; False where another process holds it."""
    assert fcntl is not None, "nothing is locked without it"
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        _warn_unlocked(folder)
    return True


def _warn_unlocked(folder: str | Path) -> None:
    warnings.warn(
        f"{folder}: this file system does not support locks; make sure that only one process "
        "writes there",
        stacklevel=4,
    )


def _let_go(handle: int) -> None:
    assert fcntl is not None, "it was locked with it"
    with suppress(OSError):  # a file system that knows no locks
        fcntl.flock(handle, fcntl.LOCK_UN)  # at once, whoever else has a copy of the handle
    os.close(handle)


def first_fault(error: ValidationError) -> str:
    """The first thing wrong with a file's content: which field, and what was expected."""
    detail = error.errors()[0]
    where, said = ".".join(map(str, detail["loc"])), detail["msg"].removeprefix("Value error, ")
    return f"{where}: {said}" if where else said


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
