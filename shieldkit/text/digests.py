"""Keyed digests of texts: what caches know a text by.

HMAC-SHA256 (RFC 2104) under a key that is drawn when the process starts. Nobody outside can make two texts share an
entry, or look for a known text among digests. A million tokens take a few milliseconds.
"""

from __future__ import annotations

import hmac
import secrets

_KEY = secrets.token_bytes(32)


def digest(text: str) -> bytes:
    """32 bytes, the same for the same text as long as this process lives."""
    return hmac.digest(_KEY, text.encode("utf-8", "surrogatepass"), "sha256")
