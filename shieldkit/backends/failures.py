"""How a backend failed: whether that may pass, when to ask again, and whether it says anything of who was asked."""

from __future__ import annotations

import random
import time

from shieldkit.errors import BackendBusy, BackendError, BackendTimeout, BackendUnavailable, ContextExceeded

PAUSE_S, MOST_PAUSE_S = 0.2, 5.0
_random = random.SystemRandom()

MAY_PASS = (BackendBusy, BackendTimeout, BackendUnavailable)
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (BackendBusy, "busy"), (BackendTimeout, "timeout"), (BackendUnavailable, "unavailable"), (ContextExceeded, "context"),
)  # fmt: skip


def reason_of(error: Exception) -> str:
    """In a word, for people and traces."""
    return next((reason for kind, reason in _REASONS if isinstance(error, kind)), "failed")


def tells_of_the_server(error: BaseException) -> bool:
    """What a request brings about by itself (too long, refused) must not close the way to it for others."""
    return isinstance(error, MAY_PASS) or (isinstance(error, Exception) and not isinstance(error, BackendError))


def pause_before_next_s(error: Exception, attempt: int, deadline: float) -> float | None:
    """How long to wait before the next attempt: full jitter, or what the server asks for. None: do not try again.

    Exponential back-off with full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    if not isinstance(error, MAY_PASS):
        return None
    pause_s = _random.uniform(0.0, min(MOST_PAUSE_S, PAUSE_S * 2**attempt))
    if isinstance(error, BackendBusy) and error.retry_after_s is not None:
        if error.retry_after_s > MOST_PAUSE_S:
            return None
        pause_s += error.retry_after_s
    return pause_s if time.monotonic() + pause_s < deadline else None


def typed(error: Exception, name: str) -> BackendError:
    """The error as one of the tree; of what is not, only the kind is kept."""
    return error if isinstance(error, BackendError) else BackendError(f"{name} failed ({type(error).__name__})")
