"""What a device is: a place where models run, as it looks at this moment."""

from dataclasses import dataclass
from typing import Literal

from shared.queues import CPU

CPU_ID = CPU


@dataclass(frozen=True)
class Device:
    """One CPU or GPU. Figures that the machine does not tell are None, never guessed."""

    id: str
    """`cpu`, or the GPU's UUID in lower case (`gpu-8f6d…`); the ledger has `cpu-NODE` of a machine with a name."""
    kind: Literal["cpu", "gpu"]
    name: str
    memory_total: int | None
    """Bytes: VRAM of a GPU, RAM that this process may use for the CPU."""
    memory_free: int | None
    """Bytes that a new model could take now, whoever holds the rest."""
    utilisation: float | None = None
    """0 to 1, over the last sampling period."""
    temperature: float | None = None
    """Degrees Celsius."""
    power: float | None = None
    """Watts."""
    driver: str | None = None
    compute_capability: str | None = None
    """For example `9.0`."""
    healthy: bool = True
    reason: str | None = None
    """For a person: why it is not healthy."""
