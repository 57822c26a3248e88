"""What a person allowed one revision of a model to bring along: pickles, code. Nothing, unless somebody said so."""

import json
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Trust:
    """What is allowed for one revision; it never covers the next one."""

    model_id: str
    revision: str
    pickle: bool = False
    """Weights in torch's own formats may be read, by the runner alone and without running what they name."""
    remote_code: bool = False
    """The runner may import the model's own Python files."""
    unverified: bool = False
    """It may be loaded although nothing told where its files end."""

    def way(self, *, pickle: bool = False, remote_code: bool = False, unverified: bool = False) -> str:
        """The request that would allow this and takes nothing back that is allowed, as a hint says it."""
        wanted = {
            "revision": self.revision,
            "allowPickle": pickle or self.pickle,
            "allowRemoteCode": remote_code or self.remote_code,
        }
        if unverified or self.unverified:
            wanted["allowUnverified"] = True
        return f"If you trust its publisher: PUT /api/v1/models/{self.model_id}/trust {json.dumps(wanted)}"


@dataclass(frozen=True)
class Grants:
    """Everything that was allowed for a model, by revision."""

    model_id: str
    granted: Mapping[str, Trust]

    def of(self, revision: str) -> Trust:
        """What is allowed for a revision; nothing, where nobody said so."""
        return self.granted.get(revision, Trust(self.model_id, revision))


NO_GRANTS = Grants("", {})
"""Nothing is allowed, and it is not known of which model one would have to allow it."""
