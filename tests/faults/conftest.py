"""Houses live as long as their cells; one in which something went wrong is not used again."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults import results
from tests.faults.house import House, stock

ROOM_FOR_ONE = {"llama.cpp": "45MB", "torch": "600MB"}
"""For one of the models that the cells load, in the runtime that there is, and not for two."""


class Street:
    """At most one house per kind of database, wide or narrow."""

    def __init__(self, folder: Callable[[str], Path]) -> None:
        self._folder = folder
        self._root = folder("hub")
        self.runtime = stock(self._root)
        results.note("runtime", name=self.runtime)
        self._houses: dict[str, House] = {}

    def house(self, kind: str, *, narrow: bool = False) -> House:
        there = self._houses.get(kind)
        if there is not None and (there.settings.runners.memory_limit is not None) is not narrow:
            self.drop(kind)
        if kind not in self._houses:
            more = {"MODELYARD_RUNNERS__MEMORY_LIMIT": ROOM_FOR_ONE[self.runtime]} if narrow else {}
            self._houses[kind] = House(kind, self._folder(kind), self._root, **more)
        return self._houses[kind]

    def drop(self, kind: str) -> None:
        if kind in self._houses:
            self._houses.pop(kind).close()

    def close(self) -> None:
        for kind in list(self._houses):
            self.drop(kind)


@pytest.fixture(scope="session")
def street(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Street]:
    street = Street(tmp_path_factory.mktemp)
    yield street
    street.close()
