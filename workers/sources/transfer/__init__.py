"""The range engine: one file's bytes over several connections, proven, and never brought again once proven.

`engine` is the interface. Behind it: `crew` (threads of one attempt), `carrier` (one connection's work), `board` (who
brings what), `proof` and `journal` (what is proven). How a server is reached is `workers/sources/wire`.
"""

from workers.sources.transfer.board import CHUNK_BYTES
from workers.sources.transfer.carrier import Patience
from workers.sources.transfer.engine import Fetched, adopt, fetch
from workers.sources.transfer.journal import journal_path

__all__ = ["CHUNK_BYTES", "Fetched", "Patience", "adopt", "fetch", "journal_path"]
