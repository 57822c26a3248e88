"""Houses live as long as their cells; one in which something went wrong is not used again."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults import results
from tests.faults.house import House, Plot, stock

ROOM_FOR_ONE = {"llama.cpp": "45MB", "torch": "600MB"}
"""For one of the models that the cells load, in the runtime that there is, and not for two."""


class Street:
    """At most one house per kind of database."""

    def __init__(self, folder: Callable[[str], Path]) -> None:
        self._folder = folder
        self._root = folder("hub")
        self.runtime = stock(self._root)
        results.note("runtime", name=self.runtime)
        self._houses: dict[str, House] = {}
        self._plots: dict[str, Plot] = {}

    def house(self, kind: str, plot: Plot = "wide") -> House:
        if self._plots.get(kind, plot) != plot:
            self.drop(kind)
        if kind not in self._houses:
            self._houses[kind] = House(kind, self._folder(kind), self._root, **self._settings(plot))
            self._plots[kind] = plot
        return self._houses[kind]

    def _settings(self, plot: Plot) -> dict[str, str]:
        settings: dict[Plot, dict[str, str]] = {
            "wide": {},
            "narrow": {
                "MODELYARD_RUNNERS__MEMORY_LIMIT": ROOM_FOR_ONE[self.runtime],
                "MODELYARD_RUNNERS__MIN_RESIDENCE_SECONDS": "0",
            },
            "sleepy": {"MODELYARD_RUNNERS__SLEEP_BYTES": "8GB"},
        }
        return settings[plot]

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
