"""The rows there are, by their number in the table."""

from collections.abc import Callable

from tests.benchmarks.measure import Context, RowResult
from tests.benchmarks.rows import (
    flipped,
    floods,
    idle,
    killed,
    links,
    loads,
    loopback,
    mended,
    pages,
    start,
    streams,
    swaps,
    throughput,
    tree,
    urgency,
)

ROWS: dict[int, Callable[[Context], RowResult]] = {
    1: loopback.proven,
    2: loopback.plain,
    3: links.capped,
    4: links.secured,
    5: killed.run,
    6: flipped.run,
    7: tree.run,
    8: mended.run,
    9: loads.run,
    10: swaps.run,
    11: start.run,
    12: throughput.run,
    13: urgency.run,
    14: streams.run,
    15: pages.run,
    16: idle.run,
    17: floods.run,
}
