"""OpenAI's HTTP API as plain data: requests read, replies written. No HTTP, no client, nothing that takes time.

Its modules:

    errors.py     what is wrong, in OpenAI's error shape
    requests.py   a body as it came, to what the shield is asked
    answers.py    a reply, to a body
    events.py     the events of a stream, to chunks

The gateway speaks it to clients, and the guarded OpenAI client to the client that it wraps. How shieldkit itself asks a
model's server is `shieldkit.backends.wire`.
"""

from shieldkit.adapters.wire.answers import answer
from shieldkit.adapters.wire.errors import ApiError, api_error
from shieldkit.adapters.wire.events import chunks
from shieldkit.adapters.wire.requests import SURFACES, Asked, Surface, read

__all__ = ["SURFACES", "ApiError", "Asked", "Surface", "answer", "api_error", "chunks", "read"]
