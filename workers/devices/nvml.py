"""NVIDIA GPUs, read through NVML. The only module that imports pynvml, and it never raises.

Where NVML is missing, too old, at odds with the loaded driver, or a GPU has fallen off the bus, the answer is a
shorter list and a sentence for a person: the service goes on with what is left.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

from workers.devices.base import Device

REASONS = {
    "NVMLError_LibraryNotFound": "No NVIDIA driver is installed (libnvidia-ml was not found); models run on the CPU.",
    "NVMLError_DriverNotLoaded": "The NVIDIA driver is installed but not loaded; load it or reboot.",
    "NVMLError_LibRmVersionMismatch": "The NVIDIA driver was upgraded while running (its library differs); reboot.",
    "NVMLError_NoPermission": "This process may not talk to the NVIDIA driver; check the device permissions.",
}


def read() -> tuple[list[Device], str | None]:
    """Every GPU of this machine, and why some or all are missing (None when nothing is)."""
    try:
        import pynvml
    except Exception as error:  # noqa: BLE001 - whatever a broken installation raises, GPUs are simply absent
        return [], f"pynvml cannot be imported ({error}); install nvidia-ml-py to see GPUs."
    return read_with(pynvml)


def read_with(nvml: ModuleType | Any) -> tuple[list[Device], str | None]:
    """As `read`, with an NVML module in hand."""
    try:
        nvml.nvmlInit()
    except Exception as error:  # noqa: BLE001 - NVML raises many classes; each means "no GPUs, because …"
        return [], _why(error)
    try:
        return _read_all(nvml)
    except Exception as error:  # noqa: BLE001 - as above
        return [], _why(error)
    finally:
        _maybe(nvml.nvmlShutdown)


def _read_all(nvml: Any) -> tuple[list[Device], str | None]:
    count = nvml.nvmlDeviceGetCount()
    if not count:
        return [], "The NVIDIA driver is here but shows no GPU."
    driver = _maybe(nvml.nvmlSystemGetDriverVersion)
    devices = [_read_one(nvml, index, driver) for index in range(count)]
    sick = [f"GPU {index}: {device.reason}" for index, device in enumerate(devices) if not device.healthy]
    return devices, "; ".join(sick) or None


def _read_one(nvml: Any, index: int, driver: str | None) -> Device:
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        uuid: str = nvml.nvmlDeviceGetUUID(handle)
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    except Exception as error:  # noqa: BLE001 - one lost GPU must not hide the others
        return Device(
            id=f"gpu-{index}",
            kind="gpu",
            name=f"GPU {index}",
            memory_total=None,
            memory_free=None,
            driver=driver,
            healthy=False,
            reason=_why(error),
        )
    rates = _maybe(nvml.nvmlDeviceGetUtilizationRates, handle)
    milliwatts = _maybe(nvml.nvmlDeviceGetPowerUsage, handle)
    capability = _maybe(nvml.nvmlDeviceGetCudaComputeCapability, handle)
    fault = _fault(nvml, handle)
    return Device(
        id=uuid.lower(),
        kind="gpu",
        name=_maybe(nvml.nvmlDeviceGetName, handle) or f"GPU {index}",
        memory_total=int(memory.total),
        memory_free=int(memory.free),
        utilisation=None if rates is None else rates.gpu / 100,
        temperature=_maybe(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
        power=None if milliwatts is None else milliwatts / 1000,
        driver=driver,
        compute_capability=None if capability is None else ".".join(map(str, capability)),
        healthy=fault is None,
        reason=fault,
    )


def _fault(nvml: Any, handle: Any) -> str | None:
    errors = _maybe(
        nvml.nvmlDeviceGetTotalEccErrors,
        handle,
        nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
        nvml.NVML_VOLATILE_ECC,
    )
    return f"{errors} uncorrectable memory errors since the driver was loaded; reset the GPU" if errors else None


def _maybe(call: Callable[..., Any], *arguments: Any) -> Any:
    """What NVML answers, or None: many GPUs lack power, temperature or ECC readings."""
    try:
        return call(*arguments)
    except Exception:  # noqa: BLE001 - a reading that this GPU does not offer
        return None


def _why(error: Exception) -> str:
    return REASONS.get(type(error).__name__, f"The NVIDIA driver answers with an error: {error}.")
