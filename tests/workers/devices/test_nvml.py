"""NVML as it answers on good, poor and broken machines; the fake has the real module's names and exceptions."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from workers.devices import nvml


@dataclass
class FakeNvml:
    """One GPU per UUID. A name in `errors` raises its NVML error code; one in `lost` fails for that index only."""

    uuids: list[str] = field(default_factory=lambda: ["GPU-8F6D1A2C-1111"])
    errors: dict[str, int] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)
    ecc: int = 0
    open: bool = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("NVML_"):
            return getattr(pynvml, name)
        if not hasattr(pynvml, name):
            raise AttributeError(name)
        return lambda *arguments: self._answer(name, *arguments)

    def _answer(self, name: str, *arguments: Any) -> Any:
        if name in self.errors:
            raise pynvml.NVMLError(self.errors[name])
        if name == "nvmlInit":
            self.open = True
        if name == "nvmlShutdown":
            self.open = False
        if name == "nvmlDeviceGetHandleByIndex" and arguments[0] in self.lost:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return {
            "nvmlDeviceGetCount": len(self.uuids),
            "nvmlSystemGetDriverVersion": "575.57",
            "nvmlDeviceGetHandleByIndex": arguments[0] if arguments else None,
            "nvmlDeviceGetUUID": self.uuids[arguments[0]] if arguments and isinstance(arguments[0], int) else None,
            "nvmlDeviceGetName": "NVIDIA H200",
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=150 << 30, free=149 << 30),
            "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=42),
            "nvmlDeviceGetTemperature": 35,
            "nvmlDeviceGetPowerUsage": 76_500,
            "nvmlDeviceGetCudaComputeCapability": (9, 0),
            "nvmlDeviceGetTotalEccErrors": self.ecc,
        }.get(name)


def test_reads_a_gpu() -> None:
    fake = FakeNvml()
    devices, reason = nvml.read_with(fake)
    assert reason is None
    (gpu,) = devices
    assert (gpu.id, gpu.kind, gpu.name, gpu.driver) == ("gpu-8f6d1a2c-1111", "gpu", "NVIDIA H200", "575.57")
    assert (gpu.memory_total, gpu.memory_free) == (150 << 30, 149 << 30)
    assert (gpu.utilisation, gpu.temperature, gpu.power, gpu.compute_capability) == (0.42, 35, 76.5, "9.0")
    assert gpu.healthy
    assert not fake.open


@pytest.mark.fault("F-44")
@pytest.mark.parametrize(
    ("code", "word"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "No NVIDIA driver"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "not loaded"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "reboot"),
        (pynvml.NVML_ERROR_UNKNOWN, "Unknown Error"),
    ],
)
def test_a_machine_without_nvml_says_why(code: int, word: str) -> None:
    devices, reason = nvml.read_with(FakeNvml(errors={"nvmlInit": code}))
    assert devices == []
    assert reason is not None
    assert word in reason


def test_this_machine_is_read_without_raising() -> None:
    devices, reason = nvml.read()
    assert devices or reason


@pytest.mark.fault("F-44")
def test_no_gpu_is_a_reason() -> None:
    assert nvml.read_with(FakeNvml(uuids=[])) == ([], "The NVIDIA driver is here but shows no GPU.")


def test_what_a_gpu_does_not_measure_is_none() -> None:
    missing = ("Temperature", "PowerUsage", "UtilizationRates", "TotalEccErrors", "CudaComputeCapability", "Name")
    fake = FakeNvml(errors={f"nvmlDeviceGet{name}": pynvml.NVML_ERROR_NOT_SUPPORTED for name in missing})
    ((gpu,), reason) = nvml.read_with(fake)
    assert reason is None
    assert (gpu.temperature, gpu.power, gpu.utilisation, gpu.compute_capability) == (None, None, None, None)
    assert (gpu.name, gpu.healthy) == ("GPU 0", True)


@pytest.mark.fault("F-43")
def test_a_lost_gpu_does_not_hide_the_others() -> None:
    devices, reason = nvml.read_with(FakeNvml(uuids=["GPU-A", "GPU-B"], lost={0}))
    assert [(gpu.id, gpu.healthy) for gpu in devices] == [("gpu-0", False), ("gpu-b", True)]
    assert reason is not None
    assert reason.startswith("GPU 0: ")


@pytest.mark.fault("F-43")
def test_memory_errors_make_it_unhealthy() -> None:
    ((gpu,), _) = nvml.read_with(FakeNvml(ecc=3))
    assert not gpu.healthy
    assert gpu.reason is not None
    assert gpu.reason.startswith("3 uncorrectable")
