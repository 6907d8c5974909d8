"""Log events, through structlog, in the way that the application has set up.

Where structlog is configured, events go through its processors. Where it is not, they go to the standard logger
`shieldkit`, which says nothing below WARNING until someone asks: a library does not print.
"""

from __future__ import annotations

import logging
from typing import Any

import structlog

_standard: Any = structlog.wrap_logger(
    logging.getLogger("shieldkit"),
    processors=[structlog.stdlib.filter_by_level, structlog.stdlib.render_to_log_kwargs],
    wrapper_class=structlog.stdlib.BoundLogger,
    cache_logger_on_first_use=True,
)


def logger() -> Any:
    """A structlog logger. Events hold names, numbers and ids of traces, and never text of a user or a model."""
    return structlog.get_logger("shieldkit") if structlog.is_configured() else _standard
