"""The job that loads a lost model again."""

from shared.contracts import Switch

RECOVERY = "recovery"
"""Origin of the jobs that load a lost model again."""


class Recovery(Switch):
    """A switch that nobody asked for. One that somebody asks for is a job of its own: it counts even where this one
    comes too late and is dropped."""

    def unique_key(self) -> str:
        return f"{super().unique_key()}:{RECOVERY}"
