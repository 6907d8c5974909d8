"""Every error that the core raises, in one tree.

    ShieldError
    ├── ConfigurationError      wrong at start-up: names the field, the value and the mend
    │   ├── PolicyError         a policy that does not parse, or asks for what cannot be
    │   ├── ModelFileError      a model or data file is missing, or its digest does not match
    │   ├── MissingExtra        a package that an extra brings is not installed; an `ImportError` too
    │   └── SelfTestError       a model is loaded, but does not tell known texts apart
    ├── InvalidConversation     messages that cannot be read as a conversation
    ├── NotConforming           data that a `SchemaGate` was asked about does not conform; in `shieldkit.schema`
    ├── GuardError              a guard failed; the chain turns it into a verdict, callers see it
    │   ├── GuardTimeout        … it did not answer within its `timeout`
    │   └── GuardProtocolError  … it answered with something that is not a report
    ├── BackendError            the model did not answer
    │   ├── BackendTimeout      … within the deadline
    │   ├── BackendBusy         … because it has too much to do; says when to ask again, where the server did
    │   ├── BackendUnavailable  … because of something that may pass: no connection, a failure of its own
    │   └── ContextExceeded     … because prompt and answer do not fit its context
    ├── LedgerError             the budget ledger could not answer; treated as "no budget left"
    ├── Overloaded              too many calls under way, or too many that hang; or the shield is closed
    └── Refused                 a refusal, when `Reply.raise_for_refusal()` asked for an exception

A refusal is a value (`Reply.refusal`), not an exception, unless it is asked for.
A reply or a screening that is used as a truth value is a `TypeError`. Adapters raise the errors of what they adapt, too.
No message in this tree carries text of the user or of the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shieldkit.outcome import Reply


class ShieldError(Exception):
    """Base of all errors that shieldkit raises."""


class ConfigurationError(ShieldError):
    """Something is wrong at start-up. Says which field, which value, and how to mend it."""

    def __init__(self, field: str, problem: str, *, mend: str) -> None:
        super().__init__(f"{field}: {problem}. {mend}")
        self.field = field
        self.problem = problem
        self.mend = mend


class PolicyError(ConfigurationError):
    """A policy does not parse, or asks for something that cannot work."""


class ModelFileError(ConfigurationError):
    """A model or data file is missing, unreadable, or its digest does not match."""


class SelfTestError(ConfigurationError):
    """A loaded model does not tell the known good from the known bad texts."""


class MissingExtra(ConfigurationError, ImportError):
    """A package that an extra of shieldkit brings is not installed. `name` is the module that was not found.

    An `ImportError` too: whoever tries an import, and does without, catches it as any other.
    """

    def __init__(self, what: str, extra: str, *, name: str | None = None) -> None:
        super().__init__(what, "is not installed", mend=f"Install it: pip install 'shieldkit[{extra}]'")
        self.name = name
        self.extra = extra


class InvalidConversation(ShieldError):
    """The messages cannot be read as a conversation; `path` says where."""

    def __init__(self, path: str, problem: str, *, mend: str = "") -> None:
        super().__init__(f"{path}: {problem}." + (f" {mend}" if mend else ""))
        self.path = path
        self.problem = problem


class GuardError(ShieldError):
    """A guard failed. Inside the chain this becomes a verdict by the guard's `on_error`."""


class GuardTimeout(GuardError):
    """A guard did not answer within its `timeout`."""


class GuardProtocolError(GuardError):
    """A guard answered with something that is not a report of the text it was given."""


class BackendError(ShieldError):
    """The model did not answer."""


class BackendTimeout(BackendError):
    """The model did not answer within the deadline."""


class BackendBusy(BackendError):
    """The server has too much to do (HTTP 429 or 503). `retry_after_s`: when to ask again, where it says so."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class BackendUnavailable(BackendError):
    """The server could not be reached, broke off, or failed (HTTP 5xx): the same request may be answered later."""


class ContextExceeded(BackendError):
    """Prompt and answer do not fit into the context the backend was given."""


class LedgerError(ShieldError):
    """The budget ledger could not answer. The chain treats this as: no budget left."""


class Overloaded(ShieldError):
    """Too many calls are under way, too many earlier ones hang, or the shield is closed; this one was not begun."""


class Refused(ShieldError):
    """The policy refused the request; `reply` holds the whole outcome."""

    def __init__(self, reply: Reply) -> None:
        assert reply.refusal is not None
        super().__init__(f"{reply.refusal.rule}: {reply.refusal.message}")
        self.reply = reply
