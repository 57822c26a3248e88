"""The schedule, in a module of its own: beat sends messages by name and needs nothing of what carries them out."""

from celery import Celery

from shared.broker import make_app, named_queue
from shared.contracts import RESCUE
from shared.queues import IO, queue_name
from shared.settings import Settings
from shared.states import Priority


def make_beat_app(settings: Settings) -> Celery:
    """What it sends is idempotent per slot, so two beats are one."""
    app = make_app(settings)
    app.conf.beat_schedule = {
        "rescue": {
            "task": RESCUE,
            "schedule": settings.jobs.rescue_seconds,
            "options": {
                "queue": named_queue(queue_name(Priority.CRITICAL, IO)),
                "expires": settings.jobs.rescue_seconds,
            },
        }
    }
    return app
