"""How fast it is, beside its peers: `make bench`, or `python -m tests.benchmarks 12 16 --quick`.

A row of the table is one module in `rows/` with a `run(context) -> RowResult`, listed in `rows/__init__.py`. Ours and
the peer take turns within each repetition, so that whatever else the machine does meets both. Nothing here is a test:
no figure fails a build.
"""
