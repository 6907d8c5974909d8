"""shieldkit: policy-driven protection around calls to a language model, in your own process, at any context length.

In five lines:

    from shieldkit import Shield
    from shieldkit.backends import LlamaCpp

    shield = Shield("builtin:default", backend=LlamaCpp("model.gguf"))
    reply = shield.invoke("Hello!")
    print(reply.text if not reply.refused else reply.refusal)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shieldkit.backends.base import CallOptions
    from shieldkit.budget import Principal
    from shieldkit.conversation import Conversation, Role, Segment, Trust
    from shieldkit.errors import (
        BackendError,
        ConfigurationError,
        GuardError,
        InvalidConversation,
        ModelFileError,
        PolicyError,
        Refused,
        SelfTestError,
        ShieldError,
    )
    from shieldkit.guards.base import Guard, Inspection, Report, guard
    from shieldkit.outcome import (
        Action,
        Coverage,
        Finding,
        Refusal,
        Reply,
        Screening,
        Span,
        Stage,
        Status,
        StreamEvent,
        Usage,
        Verdict,
    )
    from shieldkit.policy import Policy
    from shieldkit.shield import Shield

__version__ = "0.1.0"

__all__ = [
    "Action",
    "BackendError",
    "CallOptions",
    "ConfigurationError",
    "Conversation",
    "Coverage",
    "Finding",
    "Guard",
    "GuardError",
    "Inspection",
    "InvalidConversation",
    "ModelFileError",
    "Policy",
    "PolicyError",
    "Principal",
    "Refusal",
    "Refused",
    "Reply",
    "Report",
    "Role",
    "Screening",
    "Segment",
    "SelfTestError",
    "Shield",
    "ShieldError",
    "Span",
    "Stage",
    "Status",
    "StreamEvent",
    "Trust",
    "Usage",
    "Verdict",
    "__version__",
    "guard",
]

# Where each public name lives. They are loaded when first asked for, so that `import shieldkit` costs next to nothing.
_HOMES = {
    "shieldkit.backends.base": ("CallOptions",),
    "shieldkit.budget": ("Principal",),
    "shieldkit.conversation": ("Conversation", "Role", "Segment", "Trust"),
    "shieldkit.errors": (
        "BackendError", "ConfigurationError", "GuardError", "InvalidConversation", "ModelFileError", "PolicyError",
        "Refused", "SelfTestError", "ShieldError",
    ),
    "shieldkit.guards.base": ("Guard", "Inspection", "Report", "guard"),
    "shieldkit.outcome": (
        "Action", "Coverage", "Finding", "Refusal", "Reply", "Screening", "Span", "Stage", "Status", "Usage", "Verdict",
    ),
    "shieldkit.policy": ("Policy",),
    "shieldkit.shield": ("Shield", "StreamEvent"),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'shieldkit' has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
