"""What a scan has found and done."""

from dataclasses import dataclass, field
from typing import Any

from workers.sources.beneath import Skipped

MAX_SHOWN = 200
"""Of what was skipped; a folder with that much needs no longer list."""


@dataclass
class Tally:
    """What a scan has found. Lists hold model ids."""

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    returned: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    unavailable: list[str] = field(default_factory=list)
    corrupted: list[str] = field(default_factory=list)
    unchanged: int = 0
    skipped: list[Skipped] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "added": self.added, "changed": self.changed, "returned": self.returned, "gone": self.gone,
            "unavailable": self.unavailable, "corrupted": self.corrupted, "unchanged": self.unchanged,
            "skipped": [skipped._asdict() for skipped in self.skipped[:MAX_SHOWN]],
            "skippedCount": len(self.skipped),
        }  # fmt: skip
