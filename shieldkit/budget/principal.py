"""Who asks. Budgets are kept for each part of it."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass

from shieldkit.errors import ConfigurationError

MAX_ID_LENGTH = 256

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Principal:
    """Tenant, user, session and task of a request; each an id of the application's own, or None.

    Ids are 1 to 256 characters, none of them a control character or line break. A user, session or task belongs to its
    tenant: the same id at two tenants is two accounts. The session's and task's accounts do not depend on the user, so
    that changing the user id does not open a new one.
    """

    tenant: str | None = None
    user: str | None = None
    session: str | None = None
    task: str | None = None

    def __post_init__(self) -> None:
        for part in ("tenant", "user", "session", "task"):
            value = getattr(self, part)
            if value is None:
                continue
            if not isinstance(value, str) or not 1 <= len(value) <= MAX_ID_LENGTH or _CONTROL.search(value):
                mend = f"Give a string of 1 to {MAX_ID_LENGTH} characters without control characters, or None"
                raise ConfigurationError(f"Principal.{part}", "is not an id", mend=mend)

    def account(self, scope: str) -> str:
        """The key of this principal's account in a scope: 40 hex digits.

        A principal without an id there shares one anonymous account with the others of its tenant, so that leaving the
        id out never escapes a limit. The key is a digest, so that no ledger, store or error holds the ids themselves
        and none grows with their length; it has no secret in it, since all processes must come to the same one.
        """
        parts = json.dumps([scope, self.tenant, None if scope == "tenant" else getattr(self, scope)])
        return hashlib.blake2b(parts.encode(), digest_size=20).hexdigest()
