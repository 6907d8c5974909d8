"""Log events, through structlog, in the way that the application has set up.

Where structlog is configured, events go through its processors. Where it is not, they go to the standard logger
`shieldkit`, which says nothing below WARNING until someone asks: a library does not print. structlog is loaded only when
an event goes somewhere.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import MutableMapping
from functools import lru_cache
from typing import Any

_standard = logging.getLogger("shieldkit")
# By name, not `log(level, …)`: structlog's generic loggers have the methods, and read a level as the event.
_METHODS = {logging.DEBUG: "debug", logging.INFO: "info", logging.WARNING: "warning"}

_UNSAID = ("event", "exc_info")


def emit(level: int, event: str, **fields: Any) -> None:
    """One event, at DEBUG, INFO or WARNING. `fields` are names, numbers and ids of traces, never text of user or model.

    An error is among them only by way of `told`.
    """
    structlog = sys.modules.get("structlog")
    if structlog is not None and structlog.is_configured():
        getattr(structlog.get_logger("shieldkit"), _METHODS[level])(event, **fields)
    elif _standard.isEnabledFor(level):
        getattr(_through_structlog(), _METHODS[level])(event, **fields)


def told(event: str, error: Exception, **fields: Any) -> Exception | None:
    """What code of the application's own failed with: logged with its traceback, and given back to be kept.

    Only where the variable `SHIELDKIT_DEBUG` is set, or else nothing: its text may quote content, and its frames hold it.
    """
    if not os.environ.get("SHIELDKIT_DEBUG"):
        return None
    emit(logging.WARNING, event, **fields, exc_info=error)
    return error


def _spelled_out(_: Any, __: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The fields in the message too: most formats of the standard library leave out what is beside it (`extra`)."""
    said = (f"{name}={_word(value)}" for name, value in fields.items() if name not in _UNSAID and value != "")
    return {**fields, "event": " ".join((fields["event"], *said)), "event_name": fields["event"]}


def _word(value: Any) -> str:
    text = str(value)
    return text if text.isprintable() and " " not in text else repr(text)


@lru_cache(maxsize=1)
def _through_structlog() -> Any:
    import structlog

    return structlog.wrap_logger(
        _standard,
        processors=[structlog.stdlib.filter_by_level, _spelled_out, structlog.stdlib.render_to_log_kwargs],
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
