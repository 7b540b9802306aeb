"""Registry: where an extension point's entries stand, once; commands, help and checks read it.

A method, a criterion, a task and a runtime are entries: `REGISTRY.add(entry)` is all that a new one
needs beside its own file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Generic, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

from lookup_tables.errors import ContractError


class Entry(Protocol):
    """What can be registered: something with a name that users type, and a line about it."""

    @property
    def name(self) -> str: ...

    @property
    def summary(self) -> str: ...


E = TypeVar("E", bound=Entry)


class OwnSettings(BaseModel):
    """Settings that one entry has; none by default.

    A field is an option of the commands; its description is the help.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")


class Registry(Mapping[str, E], Generic[E]):
    """Entries by their names, in the order in which they were added."""

    def __init__(
        self, noun: str, entries: Iterable[E] = (), own: Callable[[str], E] | None = None
    ) -> None:
        """`noun`: what an entry is, as the option that chooses one is called.

        `own(name)` gives a user's own entry, `file.py:function`; names with a colon are such.
        """
        self.noun = noun
        self._own = own
        self._entries: dict[str, E] = {}
        for entry in entries:
            self.add(entry)

    def add(self, entry: E) -> E:
        """Raises ValueError for a name that is taken."""
        if entry.name in self._entries:
            raise ValueError(f"the {self.noun} registry already has an entry called {entry.name}")
        self._entries[entry.name] = entry
        return entry

    def remove(self, name: str) -> None:
        del self._entries[name]

    def choose(self, name: str, error: type[ContractError]) -> E:
        """The entry of that name; raises `error`, which names the option and all entries."""
        if name in self:
            return self[name]
        near = get_close_matches(name, self._entries, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise error(
            f"--{self.noun} {name!r} is unknown; {hint}choose one of {', '.join(self._entries)}"
            + (f". Your own: --{self.noun} file.py:function" if self._own else "")
        )

    def __getitem__(self, name: str) -> E:
        if self._own is not None and ":" in name:
            return self._own(name)
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
