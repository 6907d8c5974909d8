"""What has the shape of a secret and opens nothing: published samples, masks, and words in the place of one.

Answers about code are full of them. Each rule leaves alone what chance does not make: a random token has no eight equal
characters in a row and does not read as words, and no key that AWS gives ends in EXAMPLE. What a rule here says is
right only where nobody was told it in confidence; the guard looks for that.
"""

from __future__ import annotations

import re
from typing import Any

NONE = r"[^\s\S]"
"""Nothing is a sample of this kind."""

_WORD = r"(?:[A-Za-z]?[a-z]*\d{0,3}|[A-Z]*\d{0,3}|\d*)"
WORDS = rf"{_WORD}(?:[_\-]{_WORD})*"
"""Words of one case and numbers: `your-api-key-here`, and the slug of a page. For tokens that have both cases, or digits."""

AWS = r".*EXAMPLE"
JWT = r"[^.]*\.eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lIi.*"
"""jwt.io's: the subject 1234567890, who is John Doe, whatever header and signature."""
AZURE = r"Eby8vdM02xNOcqFl[A-Za-z0-9+/]{70}=="
"""The account of the storage emulator."""
STRIPE = rf"(?:4eC39HqLyjWD|BQokikJOvBiI|tR3PYbcVNZZ7)[A-Za-z0-9]{{12,20}}|{WORDS}"
"""The test keys in Stripe's documentation."""

_MASK = r"[x*#.\x{2022}\x{2026}_\-]+"
# A word for a name or a password, and those that a product has before anybody sets one.
_TOLD = (
    "your?|my|the|some|db|database|user|name|login|account|pass|passwd|password|passwort|pwd|secret|token|key|api|here|change|"
    "me|example|sample|placeholder|redacted|hidden|masked|fake|dummy"
)
_PRESET = (
    "postgres|postgresql|pg|sql|my|maria|mongo|mongodb|redis|rabbit|rabbitmq|amqp|mq|root|admin|guest|test|demo|dev|local|"
    "app|default|minio|super|strong|secure"
)
_NAMED = rf"(?:(?:{_TOLD}|[_.\-])+|{_MASK})"
_PRESETS = rf"(?:(?:{_TOLD}|{_PRESET}|[_.\-])+\d{{0,4}}|{_MASK})"
_NOWHERE = (
    r"(?:127\.[\d.]+|0\.0\.0\.0|(?:[a-z0-9\-]+\.)*(?:example(?:\.[a-z]+)?|test|invalid|localhost)|host\.docker\.internal"
    rf"|(?:{_TOLD}|{_PRESET}|host|server|cluster|domain|company|[_\-])+\d{{0,2}}(?:\.(?:com|org|net|io|dev))?)\.?"
)
LOGIN = rf"(?i)[a-z0-9+]+://(?:{_NAMED}:{_NAMED}@.*|[^:]+:(?:{_PRESETS}@{_NOWHERE}|{_MASK}@.*))"
"""`user:password` anywhere, preset ones on a host that is one's own or nobody's, and masked ones."""

# Linear also in the standard engine, which alone knows "the same again": a run is read once, and each start in few steps.
_REPEATED = re.compile(r"(\S)\1{7,}|1234567890")
LEAST = 16
"""Letters and digits without which nothing here is a key."""


def made_up(text: str, sample: Any, *, whole: bool = False) -> bool:
    """Whether `text`, what follows the prefix of a token, is a sample by its pattern, or a mask. `whole`: it has no prefix."""
    if whole:
        return sample.fullmatch(text) is not None
    rest = _REPEATED.sub("-", text)
    masked = rest != text and sum(map(str.isalnum, rest)) < LEAST
    return masked or sample.fullmatch(rest) is not None
