"""kill -9 of a worker in the middle of a download, from a hub and from a plain address.

At half of 64 MiB here; `MODELYARD_RESUME_MIB=2048` makes the table of a large one, at 10, 50, 90 and 99 %.
"""

import os
import signal
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.demo.hub import Hub
from tests.benchmarks.rows.killed import held
from tests.conftest import until
from tests.system.conftest import MIB, Yard, start

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

LARGE = os.environ.get("MODELYARD_RESUME_MIB")
SIZE = int(LARGE or "64") * MIB
CONNECTIONS, CHUNK = 4, 16 * MIB
RATE = SIZE // 80
"""Bytes a second and connection, so that a share is a moment that can be met."""
SHARES = (0.10, 0.50, 0.90, 0.99) if LARGE else (0.50,)
HEADER = b'{"w":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}'


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    root = tmp_path_factory.mktemp("resumes")
    folder = root / "tiny" / "oak"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    header, block = HEADER % (SIZE, SIZE), os.urandom(MIB)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for number in range(SIZE // MIB):
            file.write(number.to_bytes(8, "little") + block[8:])
    with Hub(root, rate=RATE) as hub:
        yield hub


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def yard(hub: Hub, data: Path) -> Iterator[Yard]:
    instance = start(
        data, hub, MODELYARD_SOURCES__CONNECTIONS=str(CONNECTIONS),
        MODELYARD_STORE__SHARE_FILES="false", MODELYARD_JOBS__LEASE_SECONDS="4", MODELYARD_JOBS__RESCUE_SECONDS="1",
    )  # fmt: skip
    yard = Yard(instance, hub)
    yield yard
    yard.http.close()
    instance.stop()


@pytest.mark.fault("F-2")
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("source", ["huggingface", "url"])
def test_it_goes_on_where_it_was(yard: Yard, hub: Hub, data: Path, source: str, share: float) -> None:
    model_id = f"{source}-{share * 100:.0f}"
    url = f"{hub.url}/files/tiny/oak/model.safetensors"
    yard.add(model_id, "tiny/oak" if source == "huggingface" else url, source=source)
    before = hub.sent("oak")
    job_id = yard.submitted("/api/v1/models/download", {"model_id": model_id})
    staging = data / "store" / "staging" / model_id
    until(lambda: held(staging) >= share * SIZE, 300, f"{share:.0%} of the download")
    os.kill(yard.pid("io"), signal.SIGKILL)
    job = yard.ended(job_id, 300)
    assert job["status"] == "succeeded", job["error"]
    twice = hub.sent("oak") - before - job["result"]["size"]
    print(f"{source}, killed at {share:.0%} of {SIZE // MIB} MiB: {twice / MIB:.1f} MiB fetched twice")
    assert job["attempt"] == 2
    assert twice <= CONNECTIONS * CHUNK
    assert yard.done(f"/api/v1/models/{model_id}/verify?tier=source", seconds=300)["result"]["ok"]
    left = [path for path in staging.parent.rglob("*") if path.is_file()]
    assert not left, "nothing is left behind"
