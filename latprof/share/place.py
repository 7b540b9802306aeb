"""Place: a folder on any file system that fsspec knows, in which readers never see half a file."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from latprof import PlaceError

_UNLISTED = (401, 403, 405)  # what web servers answer that do not list folders


class Place:
    """Where tables are shared: a local folder, s3://, http(s):// (to read from), hf://, memory:// …

    Raises PlaceError where the place cannot be reached or written.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        with self._named_errors():
            self._fs, root = fsspec.url_to_fs(self.url)
        self._root = root.rstrip("/")
        self._local = isinstance(self._fs, LocalFileSystem)

    def where(self, path: str) -> str:
        return f"{self.url}/{path}"

    def read(self, path: str) -> bytes | None:
        """A file's content, None if there is none."""
        with self._named_errors():
            self._fs.invalidate_cache()
            try:
                return self._fs.cat_file(self._at(path))
            except (FileNotFoundError, NotADirectoryError):
                return None

    def names(self, path: str = "") -> list[str]:
        """What a folder holds, sorted; nothing where it is missing or cannot be listed."""
        with self._named_errors():
            self._fs.invalidate_cache()
            try:
                found = self._fs.ls(self._at(path), detail=False)
            except (FileNotFoundError, NotADirectoryError, PermissionError, NotImplementedError):
                return []
            except Exception as error:
                if getattr(error, "status", None) in _UNLISTED:
                    return []
                raise
        return sorted(str(name).rstrip("/").rpartition("/")[2] for name in found)

    def write(self, path: str, data: bytes) -> None:
        """Write a whole file over whatever was there."""
        with self._named_errors():
            if self._local:
                os.replace(self._partial(path, data), self._at(path))
            else:
                self._fs.pipe_file(self._at(path), data)

    def create(self, path: str, data: bytes) -> bool:
        """Write a whole file unless there is one already; of two writers one is told False.

        As surely as the file system can: a local one and S3 decide it themselves, others are asked
        beforehand.
        """
        with self._named_errors():
            try:
                if self._local:
                    self._link(path, data)
                else:
                    self._fs.pipe_file(self._at(path), data, mode="create")
            except FileExistsError:
                return False
        return True

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}".rstrip("/")

    def _link(self, path: str, data: bytes) -> None:
        partial = self._partial(path, data)
        try:
            os.link(partial, self._at(path))  # unlike a rename it never replaces
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP):
                raise
            with open(self._at(path), "xb") as file:  # exFAT, some network drives: no links
                file.write(data)
        finally:
            partial.unlink()

    def _partial(self, path: str, data: bytes) -> Path:
        target = Path(self._at(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return partial

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except ImportError as error:
            raise PlaceError(
                f"{self.url}: {error}. Install what this kind of place needs: "
                "pip install 'latprof-pruner[share]'"
            ) from None
        except PlaceError:
            raise
        except Exception as error:  # each file system has errors of its own; all mean the same here
            said = str(error) or type(error).__name__
            raise PlaceError(
                f"{self.url}: {said}. Check the address, your permissions and the connection. "
                "Files already there are kept; run the same command again to continue"
            ) from None
