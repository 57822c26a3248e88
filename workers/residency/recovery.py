"""The jobs that load a lost model again: nobody asked for them.

One that somebody asks for is a job of its own: it counts even where these come too late and are dropped.
"""

from shared.contracts import Load, Switch

RECOVERY = "recovery"
"""Origin of these jobs."""


class Recovery(Switch):
    """Of a model that served its type, and does again."""

    def unique_key(self) -> str:
        return f"{super().unique_key()}:{RECOVERY}"


class Return(Load):
    """Of a pinned model that serves no type."""

    def unique_key(self) -> str:
        return f"{super().unique_key()}:{RECOVERY}"
