"""Folders of the user's are looked through for models, and what was registered before is looked for again."""

from typing import Any

from shared.contracts import Scan
from shared.errors import Conflict
from workers.elsewhere import in_ollama, in_place
from workers.elsewhere.tally import Tally
from workers.job import Work, job


@job(Scan)
def scan(args: Scan, work: Work) -> dict[str, Any]:
    """Register what is there where it lies; retire, but never delete, what is gone. Nothing is written to a folder."""
    roots = work.services.settings.sources.scan_roots
    if args.paths:
        places = [in_place.place_of(work.services, path) for path in args.paths]
    elif roots:
        places = [(root, ".") for root in roots]
    else:
        raise Conflict(
            "no_scan_roots",
            "No folder may be scanned here.",
            "Set MODEL_SCAN_PATH to the folders that may be (comma-separated), and start the service again.",
        )
    tally = Tally()
    with work.services.layout.scan_lock():
        for number, (root, below) in enumerate(places):
            work.report("scanning", fraction=number / len(places))
            in_place.survey(work, root, below, tally)
        if not args.paths:
            in_ollama.reconcile(work, tally)
    return tally.to_dict()
