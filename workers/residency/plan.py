"""What a model will take on a device, known before anything is touched."""

from typing import NamedTuple

from shared import fit
from shared.db.tables import Footprint, Installation, Residency
from shared.errors import Failed

GB = 10**9


class Plan(NamedTuple):
    """How a model is to be loaded, and what that takes."""

    setting: fit.Setting
    need: fit.Need
    predicted: int
    """Bytes that the formula alone says of it once it is loaded."""

    def footprint(self, row: Residency, memory_bytes: int, load_seconds: float) -> Footprint:
        """What it took, to be remembered."""
        return Footprint(
            model_id=row.model_id, revision=row.revision, runtime=row.runtime, device=row.device,
            context_length=self.setting.context_length, memory_bytes=memory_bytes, predicted_bytes=self.predicted,
            load_seconds=load_seconds, measured_at=0.0,
        )  # fmt: skip


def will_not_fit(installation: Installation, need: fit.Need, free: int, setting: fit.Setting) -> Failed:
    """With the numbers, and with what would help."""
    context = fit.longest_context(installation.facts, installation.size, setting, free)
    shorter = f"MODELYARD_RUNNERS__CONTEXT_LENGTH={context} would let it fit" if context else "a smaller one would"
    takes = f"{need.total / GB:.1f} ± {need.spread / GB:.1f} GB"
    return Failed(
        "will_not_fit",
        f"{installation.model_id} needs {takes} of memory, and {free / GB:.1f} GB are free.",
        f"Unload another model, or {shorter}; a variant of fewer bits a weight takes less.",
        {
            "needBytes": need.total, "spreadBytes": need.spread, "freeBytes": free, "basis": need.basis,
            "weightsBytes": need.weights, "cacheBytes": need.cache, "runtimeBytes": need.runtime,
        },
    )  # fmt: skip
