"""How many connections are chosen: by a table, and on models of links that are known to need so many."""

from collections.abc import Callable

import pytest

from workers.sources.transfer.width import AGAIN_SECONDS, PATIENCE_SECONDS, Chooser, Reading, wider


@pytest.mark.parametrize(
    ("before", "now", "most", "wanted"),
    [
        (None, Reading(2, 100), 16, 4),  # nothing to compare with: try
        (None, Reading(2, 0), 16, 2),  # nothing comes: more connections would bring no more
        (None, Reading(16, 100), 16, 16),
        (None, Reading(1, 100), 1, 1),
        (Reading(2, 100), Reading(4, 200), 16, 8),
        (Reading(2, 100), Reading(4, 126), 16, 8),
        (Reading(2, 100), Reading(4, 125), 16, 2),  # more, but not clearly
        (Reading(2, 100), Reading(4, 60), 16, 2),
        (Reading(2, 0), Reading(4, 0), 16, 2),
        (Reading(4, 100), Reading(8, 200), 12, 12),
        (Reading(8, 100), Reading(12, 149), 12, 12),
        (Reading(8, 100), Reading(12, 101), 12, 8),
    ],
)
def test_twice_as_many_while_it_is_clearly_faster(before: Reading | None, now: Reading, most: int, wanted: int) -> None:
    assert wider(before, now, most) == wanted


class Link:
    """A transfer over so many connections that together bring what `rate` says; new ones bring after `latency`."""

    def __init__(self, chooser: Chooser, rate: Callable[[int], float], latency: float = 0.02) -> None:
        self.chooser = chooser
        self.rate = rate
        self.latency = latency
        self.widths: list[int] = []
        self._now = self._received = 0.0
        self._opened = [0.0]

    def run(self, seconds: float, tick: float = 0.05) -> list[int]:
        """The numbers of connections there were, without repetitions."""
        until = self._now + seconds
        while self._now < until:
            self._now += tick
            bringing = sum(self._now - opened >= self.latency for opened in self._opened)
            self._received += self.rate(bringing) * tick
            width = self.chooser.look(self._now, int(self._received), bringing)
            del self._opened[width:]
            self._opened += [self._now] * (width - len(self._opened))
            if width not in self.widths[-1:]:
                self.widths.append(width)
        return self.widths


MB = 1e6


@pytest.mark.parametrize(
    ("rate", "widths"),
    [
        (lambda width: 900 * MB, [2, 4, 2]),  # loopback: the machine is the limit
        (lambda width: 1 * MB, [2, 4, 2]),  # a limit of ours, or a thin line
        (lambda width: width * 150 * MB, [2, 4, 8, 16]),  # a cap per connection
        (lambda width: min(width, 5) * 150 * MB, [2, 4, 8, 4]),
        (lambda width: min(width, 6) * 150 * MB, [2, 4, 8, 16, 8]),
    ],
)
def test_as_many_as_help_within_a_second(rate: Callable[[int], float], widths: list[int]) -> None:
    assert Link(Chooser(16), rate).run(1.2) == widths


def test_far_away_it_takes_its_time_and_comes_as_far() -> None:
    link = Link(Chooser(16), lambda width: width * 5 * MB, latency=0.4)
    assert link.run(2) == [2, 4]
    assert link.run(5) == [2, 4, 8, 16]


def test_connections_that_bring_nothing_are_waited_for_no_longer() -> None:
    link = Link(Chooser(16), lambda width: 10 * MB, latency=0.02)
    link.run(0.25)
    link.latency = 3600
    assert link.run(4 * (PATIENCE_SECONDS + 1)) == [2, 4, 2]


def test_more_are_tried_again_since_links_change() -> None:
    link = Link(Chooser(16), lambda width: 100 * MB)
    assert link.run(2) == [2, 4, 2]
    link.rate = lambda width: width * 100 * MB
    assert link.run(AGAIN_SECONDS + 2) == [2, 4, 2, 4, 8, 16]
    assert link.run(AGAIN_SECONDS + 2) == [2, 4, 2, 4, 8, 16]


@pytest.mark.parametrize("most", [1, 2, 3, 16])
def test_never_more_than_allowed(most: int) -> None:
    assert max(Link(Chooser(most), lambda width: width * MB).run(5)) == most
