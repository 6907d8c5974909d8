"""shieldkit where LangChain applications already are.

    ShieldRunnable        a shield in a chain: `prompt | shield | parser`; `ShieldRunnable.screen(shield)` screens alone
    ShieldedChatModel     a guarded chat model, around any chat model or over any backend: nothing leaves unguarded
    ShieldMiddleware      for agents of langchain 1.x: screens what the model reads, and judges calls before they run
    ShieldDocumentFilter  screens and labels retrieved documents; `ShieldRetriever` does so for a retriever

Needs `pip install 'shieldkit[langchain]'`, and the middleware `pip install 'shieldkit[langchain-agents]'`. Each part is
imported when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from shieldkit.errors import MissingExtra

if TYPE_CHECKING:
    from shieldkit.adapters.langchain.chat_model import ShieldedChatModel
    from shieldkit.adapters.langchain.documents import ShieldDocumentFilter, ShieldRetriever
    from shieldkit.adapters.langchain.messages import RefusedByShield
    from shieldkit.adapters.langchain.middleware import ShieldMiddleware
    from shieldkit.adapters.langchain.runnable import ShieldRunnable, ShieldScreen

__all__ = [
    "RefusedByShield",
    "ShieldDocumentFilter",
    "ShieldMiddleware",
    "ShieldRetriever",
    "ShieldRunnable",
    "ShieldScreen",
    "ShieldedChatModel",
]

_HOMES = {
    "RefusedByShield": "messages",
    "ShieldDocumentFilter": "documents",
    "ShieldMiddleware": "middleware",
    "ShieldRetriever": "documents",
    "ShieldRunnable": "runnable",
    "ShieldScreen": "runnable",
    "ShieldedChatModel": "chat_model",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(f"{__name__}.{_HOMES[name]}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("langchain", "langchain_core", "langgraph"):
            raise
        extra = "langchain-agents" if name == "ShieldMiddleware" else "langchain"
        raise MissingExtra(f"what {name} needs of LangChain", extra, name=error.name) from None
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
