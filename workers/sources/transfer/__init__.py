"""The range engine: one file's bytes over several connections, proven, and never brought again once proven.

`engine` is the interface for one file, `several` for many. Behind them: `crew` (threads of one attempt), `carrier` (one
connection's work), `width` (how many of them), `throttle` (how fast they may be), `board` (who brings what), `blocks`
(what is on its way to the hash), `proof` and `journal` (what is proven). How a server is reached is
`workers/sources/wire`.
"""

from workers.sources.transfer.board import CHUNK_BYTES
from workers.sources.transfer.carrier import Patience
from workers.sources.transfer.engine import Fetched, adopt, fetch
from workers.sources.transfer.journal import journal_path
from workers.sources.transfer.several import fetch_several
from workers.sources.transfer.throttle import Throttle

__all__ = ["CHUNK_BYTES", "Fetched", "Patience", "Throttle", "adopt", "fetch", "fetch_several", "journal_path"]
