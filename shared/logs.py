"""JSON logs, one object a line; every line of a job's work carries its id."""

import logging
import sys
from typing import Any

import structlog
from structlog.contextvars import bound_contextvars

from shared.settings import Settings

job_context = bound_contextvars
"""`with job_context(job_id=…, kind=…):` puts these on every line logged below it, in this thread."""


def configure(settings: Settings, process: str) -> None:
    """Send everything, the libraries' own logs too, to standard error as JSON."""
    shared_steps: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _name_process(process),
    ]
    structlog.configure(
        processors=[*shared_steps, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared_steps,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=settings.log_level, force=True)
    for chatty in ("httpx", "httpx2", "httpcore", "huggingface_hub", "alembic", "urllib3", *CELERYS_OWN):
        logging.getLogger(chatty).setLevel(logging.WARNING)


CELERYS_OWN = ("celery.app.trace", "celery.worker.strategy")
"""They say for each task what `job.started` and `job.ended` say."""


def _name_process(name: str) -> Any:
    def add(_: Any, __: str, event: Any) -> Any:
        event["process"] = name
        return event

    return add
