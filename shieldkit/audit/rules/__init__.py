"""The rules, one module a concern. Importing this package registers them all."""

from shieldkit.audit.rules import (
    access,
    context,
    isolation,
    live,
    logs,
    models,
    process,
    provenance,
    proxies,
    templates,
    tools,
)

__all__ = [
    "access",
    "context",
    "isolation",
    "live",
    "logs",
    "models",
    "process",
    "provenance",
    "proxies",
    "templates",
    "tools",
]
