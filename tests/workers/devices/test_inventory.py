import subprocess
import sys
from pathlib import Path

import pytest
from celery.concurrency.thread import TaskPool

from shared.errors import Invalid
from workers.devices import inventory
from workers.devices.base import Device
from workers.devices.inventory import VISIBLE, pin, visible
from workers.guard import WakingPool

GPUS = [
    Device(id=f"gpu-{mark * 8}-0000", kind="gpu", name="GPU", memory_total=80 << 30, memory_free=79 << 30)
    for mark in "abc"
]
A, B, C = GPUS


@pytest.mark.fault("F-44")
def test_there_is_always_the_cpu_and_a_reason_where_there_is_no_gpu() -> None:
    found, reason = inventory.devices()
    assert found[0].id == "cpu"
    assert len(found) > 1 or reason


@pytest.mark.fault("F-44")
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, [A, B, C]),
        ("", []),
        ("-1", []),
        ("0", [A]),
        ("2,0", [C, A]),
        (" 1 , 2", [B, C]),
        ("0,7,1", [A]),
        ("GPU-bbbbbbbb-0000", [B]),
        ("GPU-cc", [C]),
        ("GPU-", []),
        ("gpu-a,GPU-b", [A, B]),
        ("none", []),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(value: str | None, expected: list[Device]) -> None:
    assert visible(GPUS, {} if value is None else {VISIBLE: value}) == expected


def run(code: str) -> str:
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("device", "shown"), [("cpu", "''"), ("gpu-8f6d1a2c-00ff", "'GPU-8f6d1a2c-00ff'"), ("mig-8f6d", "'MIG-8f6d'")]
)
def test_pinning_shows_one_device(device: str, shown: str) -> None:
    code = (
        f"import os; from workers.devices.inventory import pin; pin({device!r}); print(repr(os.environ[{VISIBLE!r}]))"
    )
    assert run(code).strip() == shown


def test_pinning_after_torch_is_a_mistake() -> None:
    code = "import sys; sys.modules['torch'] = sys; from workers.devices.inventory import pin; pin('cpu')"
    assert "RuntimeError: pin() must come before torch" in run(code)


@pytest.mark.parametrize("device", ["", "gpu", "gpu-", "0", "gpu-zz", "GPU-8f", "gpu-1,gpu-2", "gpu-1\n"])
def test_only_ids_can_be_pinned(device: str) -> None:
    with pytest.raises(Invalid) as caught:
        pin(device)
    assert caught.value.code == "unknown_device"


@pytest.mark.fault("F-37")
def test_no_worker_forks_once_it_may_have_a_driver_open() -> None:
    """CUDA does not survive a fork: slots are threads, and models are in children of their own."""
    assert issubclass(WakingPool, TaskPool)
