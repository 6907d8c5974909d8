"""How a model is named on the command line: `gguf:PATH`, or the base URL of an OpenAI-compatible server."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shieldkit.backends.base import Backend


def named(args: argparse.Namespace) -> Backend:
    """The model that `--backend`, `--model` and `--backend-key-env` name. Raises `ConfigurationError`."""
    from shieldkit.backends import LlamaCpp
    from shieldkit.errors import ConfigurationError

    what: str = args.backend or ""
    mend = "Give --backend gguf:PATH, or the base URL of an OpenAI-compatible server (http://127.0.0.1:8000/v1)"
    if not what:
        raise ConfigurationError("--backend", "is missing", mend=mend)
    if what.startswith("gguf:"):
        return LlamaCpp(what.removeprefix("gguf:"), model=args.model)
    if what.startswith(("http://", "https://")):
        key = _secret(args.backend_key_env)
        from shieldkit.backends import OpenAICompatible

        return OpenAICompatible(what, model=args.model, api_key=key)
    raise ConfigurationError("--backend", "is neither gguf:PATH nor a URL", mend=mend)


def _secret(variable: str | None) -> str | None:
    """A key that is in the environment: on a command line others could read it."""
    from shieldkit.errors import ConfigurationError

    if variable is None:
        return None
    value = os.environ.get(variable)
    if not value:
        raise ConfigurationError(
            "--backend-key-env", "names a variable that is not set", mend="Set it to the server's key"
        )
    return value
