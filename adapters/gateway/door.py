"""Who is let in: the key, how often it asks, and how much it sends. All of it is told before anything is parsed."""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
import math
from dataclasses import dataclass, field

from starlette.requests import ClientDisconnect, Request

from shieldkit.adapters.gateway.keys import Key, Keys
from shieldkit.adapters.wire import ApiError
from shieldkit.budget import Charge, MemoryLedger, Reservation
from shieldkit.outcome import Usage

BODY_TIMEOUT_S = 30.0
MAX_HEADER_BYTES = 16_384
MAX_DROPPED_BYTES = 64 * 2**20
_LOCAL_NAMES = frozenset({"localhost", "testserver"})


@dataclass(slots=True)
class Door:
    """Keys and rates. Without keys everybody on this machine is `nobody`, and others are not let in."""

    keys: Keys | None
    nobody: Key
    max_body_bytes: int
    _rates: MemoryLedger = field(default_factory=lambda: MemoryLedger(max_accounts=20_000))

    def headers(self, request: Request) -> None:
        """Raises `ApiError` 431 when there is more of them than anybody needs."""
        if sum(len(name) + len(value) for name, value in request.headers.raw) > MAX_HEADER_BYTES:
            raise ApiError(431, f"the headers are larger than {MAX_HEADER_BYTES} bytes", "headers_too_large")

    def key(self, request: Request) -> Key:
        """Whose request it is. Raises `ApiError` 401, or 403 for a stranger where there are no keys."""
        if self.keys is None:
            # A page of the web that a browser here shows can send requests here too, under a name of its own.
            if not (_is_local(request.client.host if request.client else "") and _is_local(_host(request))):
                raise ApiError(403, "without a keys file only this machine is served", "not_local")
            return self.nobody
        presented = _presented(request.headers.get("authorization", ""))
        found = self.keys.find(presented) if presented else None
        if found is None:
            challenge = {"www-authenticate": 'Basic realm="shieldkit", charset="UTF-8"'}
            raise ApiError(401, "no valid API key was given", "invalid_api_key", headers=challenge)
        return found

    def role(self, request: Request, *roles: str) -> Key:
        """The key, which has one of these roles. Without keys, this machine has all of them."""
        key = self.key(request)
        if self.keys is not None and not set(roles) & set(key.roles):
            raise ApiError(403, f"this key does not have the role {' or '.join(roles)}", "forbidden")
        return key

    def count(self, key: Key) -> None:
        """Count a request of this key. Raises `ApiError` 429 when it is one too many."""
        if key.requests is None:
            return
        limit, window_s = key.requests.limit, key.requests.window
        reserved = self._rates.reserve([Charge(key.sha256, window_s, 1, 0, limit, None, None, "requests")])
        if not isinstance(reserved, Reservation):
            wait = {"retry-after": str(max(1, math.ceil(window_s / 60)))}
            raise ApiError(429, "too many requests of this key", "rate_limit_exceeded", headers=wait)
        self._rates.settle(reserved, Usage(1, 0))

    async def body(self, request: Request) -> bytes:
        """The body, within size and time. Raises `ApiError` 413, 415 or 408."""
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":  # also: what a foreign web page may send without asking first
            raise ApiError(415, "content-type must be application/json", "unsupported_media_type")
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > self.max_body_bytes and "expect" in request.headers:
            raise self._too_large({"connection": "close"})  # it has not sent the body, and need not
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                return await self._read(request)
        except TimeoutError:
            close = {"connection": "close"}
            raise ApiError(408, "the body did not come in time", "body_timeout", headers=close) from None
        except ClientDisconnect:
            raise Gone from None

    async def _read(self, request: Request) -> bytes:
        """What is too large is read all the same, and dropped, up to a point: who is still sending reads no answer."""
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size <= self.max_body_bytes:
                parts.append(part)
            elif size <= self.max_body_bytes + MAX_DROPPED_BYTES:
                parts.clear()
            else:
                raise self._too_large({"connection": "close"})
        if size > self.max_body_bytes:
            raise self._too_large({})
        return b"".join(parts)

    def _too_large(self, headers: dict[str, str]) -> ApiError:
        message = f"the body is larger than {self.max_body_bytes} bytes"
        return ApiError(413, message, "request_too_large", headers=headers)


class Gone(Exception):
    """The client has left."""


def _presented(header: str) -> str:
    """The key in an Authorization header: `Bearer KEY`, or the password of `Basic`, for browsers."""
    scheme, _, value = header.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value.strip(), validate=True).decode("utf-8").partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""


def _host(request: Request) -> str:
    """The name in the Host header, without its port."""
    host = request.headers.get("host", "")
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _is_local(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name.lower() in _LOCAL_NAMES
