"""Before the first call: a policy held against what a backend really is. What cannot work is an error that names the mend."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from shieldkit.backends.base import Backend
from shieldkit.errors import ConfigurationError, PolicyError
from shieldkit.policy import Policy


def open_backend(backend: Backend, policy: Policy) -> None:
    """Open it with the policy's cap, and check it for the policy and each tenant's. Raises `ConfigurationError`."""
    opener = getattr(backend, "open", None)
    if opener is not None:
        opener(policy.context.cap)
    check(backend, policy, "")
    for name in policy.tenants:
        check(backend, policy.for_tenant(name), f"tenants.{name}.")


def check(backend: Backend, policy: Policy, prefix: str) -> None:
    """Hold one policy against an open backend; `prefix` says where in the file it stands."""
    check_context(backend, policy, f"{prefix}context")
    if policy.model.allow:
        _check_model(backend, policy.model.allow, f"{prefix}model.allow")


def check_context(backend: Backend, policy: Policy, field: str) -> None:
    """Hold the policy's claim against what the model really has. Raises `ConfigurationError`."""
    claimed, real = policy.context.max_tokens, backend.context_tokens
    if claimed is not None and real < claimed:
        flag = getattr(backend, "context_flag", "")
        larger = "serve the model with a larger context" + (f" ({flag})" if flag else "")
        raise ConfigurationError(
            f"{field}.max_tokens", f"the policy says {claimed}, and the backend has {real}",
            mend=f"Set it to {real} or less, or {larger}",
        )  # fmt: skip
    if policy.context.max_output_tokens >= real:
        raise ConfigurationError(
            f"{field}.max_output_tokens", f"{policy.context.max_output_tokens} leaves no room in {real} tokens",
            mend="Lower it",
        )  # fmt: skip


def _check_model(backend: Backend, allow: Sequence[str], field: str) -> None:
    """What stands behind a served name counts, not the name: a server can give any model any name.

    Letters in upper and lower case are the same: hubs and tools write one model's name in both, and who could give a model
    the name of another but for its case could give it that very name.
    """
    routes = getattr(backend, "routes", None)
    for each in [backend] if routes is None else [route.backend for route in routes]:
        name = str(getattr(each, "true_model", each.model))
        if not any(fnmatchcase(name.casefold(), pattern.casefold()) for pattern in allow):
            served = f" (served as '{each.model}')" if name != each.model else ""
            problem = f"the backend's model is '{name}'{served}, which is not on the list"
            named_by = getattr(each, "named_by", "")
            or_name = f", or say what it is called: {named_by}" if named_by else ""
            raise PolicyError(field, problem, mend=f"Serve a model that is on it, or add this one{or_name}")
