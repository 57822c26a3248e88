"""Swaps back and forth under streaming clients cut nobody and leave nothing behind.

A few of them between one model of each runtime in the suite; MODELYARD_SWAPS=100 has so many of every pair.
"""

import os
from pathlib import Path

import pytest

from deploy.demo.load import PAUSE_SECONDS
from deploy.demo.models import make_gguf_llm, make_transformers_llm
from tests.benchmarks.measure import quantile
from tests.benchmarks.swapping import mark, swap_back_and_forth
from tests.system.conftest import needs_llama_server, opened

COUNT = int(os.environ.get("MODELYARD_SWAPS", "0"))
"""0: a few."""
FEW, REQUESTS = 2, 100
FLAT = 1.1
PAIRS = {"one of each": ("torch", "gguf"), "llama-server": ("gguf", "gguf"), "torch": ("torch", "torch")}
LIMITS = {"llama-server": "45MB", "torch": "600MB"}
"""Room for one of a pair at a time. One of each runtime differ too much for a limit that says so."""
CASES = [("one of each", True), ("llama-server", False)]
MORE = [("llama-server", True), ("torch", True), ("torch", False)] if COUNT else []

pytestmark = [pytest.mark.system, pytest.mark.timeout(400 + 60 * COUNT)]


@pytest.mark.fault("F-47")
@pytest.mark.parametrize(("pair", "together"), [*CASES, *MORE])
def test_swaps_cut_nobody(tmp_path: Path, pair: str, together: bool) -> None:
    needs_llama_server()
    names = [f"{kind}-{number}" for number, kind in enumerate(PAIRS[pair])]
    for number, (name, kind) in enumerate(zip(names, PAIRS[pair], strict=True)):
        folder = tmp_path / "hub" / "tiny" / name
        if kind == "gguf":
            make_gguf_llm(folder / "model.gguf", number, name=name)
        else:
            make_transformers_llm(folder, number, 4_000_000, name)
    limit = {} if together else {"MODELYARD_RUNNERS__MEMORY_LIMIT": LIMITS[pair]}
    with opened(tmp_path / "yard", tmp_path / "hub", **limit) as yard:
        for name in names:
            yard.pull(name, f"tiny/{name}")
        yard.done("/api/v1/models/activate", {"model_id": names[0]})
        pids = yard.pid("api"), yard.pid("device-cpu")
        seen = swap_back_and_forth(
            yard.instance.url, lambda number: yard.done(f"/api/v1/models/{names[number]}/switch"),
            lambda: mark(*pids), count=COUNT or FEW, requests=REQUESTS if COUNT else 10,
            pause=0.0 if COUNT else PAUSE_SECONDS,
        )  # fmt: skip
    swap, added = (
        [round(quantile(values, share), 3) for share in (0.5, 0.99)] for values in (seen.seconds, seen.added)
    )
    print(
        f"{pair}: {len(seen.seconds)} swaps of {swap} s, {seen.whole} requests, {len(seen.failures)} failed,", end=" "
    )
    print(f"added {added} s (p50, p99); after the tenth and the last: {seen.marks}")
    assert seen.failures == []
    assert seen.whole >= REQUESTS * COUNT
    first, last = seen.marks[0], seen.marks[-1]
    assert last.children <= first.children, "runners are left behind"
    if COUNT:
        assert last.files <= FLAT * first.files
        assert last.memory <= FLAT * first.memory
