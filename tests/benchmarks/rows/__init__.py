"""The rows there are, by their number in the table."""

from collections.abc import Callable

from tests.benchmarks.measure import Context, RowResult
from tests.benchmarks.rows import idle, pages, start, streams, throughput, urgency

ROWS: dict[int, Callable[[Context], RowResult]] = {
    11: start.run,
    12: throughput.run,
    13: urgency.run,
    14: streams.run,
    15: pages.run,
    16: idle.run,
}
