"""What a running server says to somebody without a key. Only questions are asked; nothing is generated or changed.

Each answer is bounded in size and time, redirects are not followed, and an answer is input: it is parsed, held to a
shape, and never quoted.
"""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shieldkit.audit.findings import Given
from shieldkit.audit.located import Problem

MAX_BODY_BYTES, MAX_MODELS = 2_000_000, 200
REQUEST_TIMEOUT_S, DEADLINE_S = 5.0, 45.0
ORIGIN = "https://origin-that-nobody-allows.example"
_ASKED = (
    "/v1/models", "/version", "/props", "/slots", "/info", "/metrics", "/docs", "/openapi.json", "/server_info",
    "/tokenizer_info", "/api/tags", "/get_model_info",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, headers with lower-case names, and the body where it was within bounds."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body's value; `None` where it is not JSON."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None


@dataclass(frozen=True)
class LiveServer:
    """What a running server told."""

    name: str
    where: Given
    """`value` is the address."""
    answers: Mapping[str, Answer] = field(default_factory=dict)
    models: tuple[tuple[str, int | None], ...] = ()
    """Names of models and their context, where the server says it."""
    parses: tuple[str, ...] = ()
    """Control tokens that its tokenizer takes for such in plain text."""
    asked_for_key: bool = False

    def opened(self, path: str) -> Answer | None:
        """The answer at a path, where it was given without a key."""
        answer = self.answers.get(path)
        return answer if answer is not None and answer.status == 200 else None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


class _Asker:
    def __init__(self, base: str, key: str | None) -> None:
        self._base = base
        self._key = key
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._deadline = time.monotonic() + DEADLINE_S

    def ask(self, path: str, body: Any = None, *, with_key: bool = False) -> Answer | None:
        """An answer, or `None` when there was none within the bounds."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            return None
        headers = {"Origin": ORIGIN, "Accept": "application/json", "User-Agent": "shieldkit-audit"}
        if with_key and self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data = None if body is None else json.dumps(body).encode()
        if data is not None:
            headers["Content-Type"] = "application/json"
        request = urllib.request.Request(self._base + path, data=data, headers=headers)  # noqa: S310 - http(s), checked
        try:
            with self._opener.open(request, timeout=min(REQUEST_TIMEOUT_S, left)) as response:
                return self._answer(response)
        except urllib.error.HTTPError as error:
            with error:
                return self._answer(error)
        except (OSError, http.client.HTTPException, ValueError):
            return None

    def _answer(self, response: Any) -> Answer | None:
        pieces: list[bytes] = []
        size, until = 0, min(self._deadline, time.monotonic() + 2 * REQUEST_TIMEOUT_S)
        try:
            while piece := response.read1(65_536):
                size += len(piece)
                if size > MAX_BODY_BYTES or time.monotonic() > until:
                    pieces = []
                    break
                pieces.append(piece)
        except (OSError, http.client.HTTPException):
            return None
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Answer(int(response.status), headers, b"".join(pieces))


def look(url: str, key: str | None = None) -> LiveServer:
    """Ask a server. `key` is used only for what it does not say without one. Raises `Problem` when nobody answers."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
        raise Problem("is no address of a server: http://HOST:PORT is")
    base = url.rstrip("/").removesuffix("/v1")
    asker = _Asker(base, key)
    answers: dict[str, Answer] = {}
    for path in _ASKED:
        answer = asker.ask(path)
        if answer is not None:
            answers[path] = answer
        elif not answers:
            raise Problem("does not answer")
    listed = answers.get("/v1/models")
    asked_for_key = listed is not None and listed.status in (401, 403)
    if asked_for_key and key:
        listed = asker.ask("/v1/models", with_key=True)
        if listed is None or listed.status != 200:
            raise Problem("does not take the key that was given")
    models = _models(listed, answers)
    if asked_for_key:
        answer = asker.ask("/invocations", {})
        if answer is not None:
            answers["/invocations"] = answer
    where = Given(base, base, 0)
    parses = _parsed(asker, models[0][0] if models else "")
    return LiveServer(base, where, answers, models, parses, asked_for_key)


def _models(listed: Answer | None, answers: Mapping[str, Answer]) -> tuple[tuple[str, int | None], ...]:
    found: list[tuple[str, int | None]] = []
    body = listed.json() if listed is not None and listed.status == 200 else None
    rows = body.get("data") if isinstance(body, dict) else None
    for row in rows[:MAX_MODELS] if isinstance(rows, list) else []:
        if isinstance(row, dict) and isinstance(row.get("id"), str):
            meta = row.get("meta") if isinstance(row.get("meta"), dict) else {}
            found.append((row["id"][:300], _count(row.get("max_model_len"), (meta or {}).get("n_ctx"))))
    lengths = [n for path in ("/props", "/info", "/get_model_info") if (n := _length(answers.get(path))) is not None]
    if lengths:
        found = [(name, length or lengths[0]) for name, length in found] or [("", lengths[0])]
    return tuple(found)


def _length(answer: Answer | None) -> int | None:
    body = answer.json() if answer is not None and answer.status == 200 else None
    if not isinstance(body, dict):
        return None
    generation = body.get("default_generation_settings")
    nested = generation.get("n_ctx") if isinstance(generation, dict) else None
    return _count(nested, body.get("n_ctx"), body.get("max_total_tokens"), body.get("max_total_num_tokens"))


def _count(*values: Any) -> int | None:
    return next((v for v in values if isinstance(v, int) and not isinstance(v, bool) and 0 < v < 10**12), None)


_PROBES = (
    "<|im_start|>",
    "<|start_header_id|>",
    "<start_of_turn>",
    "<|user|>",
    "[INST]",
    "<|end|>",
    "<|start|>",
    "<|turn>",
)


def _parsed(asker: _Asker, model: str) -> tuple[str, ...]:
    """Control tokens that one token each stand for: as plain text they would be several."""
    for path, text, extra in (("/tokenize", "prompt", True), ("/tokenize", "content", False), ("/tokenize", "inputs", False),
                              ("/extras/tokenize", "input", True)):  # fmt: skip
        known = {"model": model} if extra else {}
        nothing = _tokens(asker.ask(path, {**known, text: "a", "add_special_tokens": False}, with_key=True))
        if nothing is None:
            continue
        found = []
        for token in _PROBES:
            count = _tokens(asker.ask(path, {**known, text: "a" + token, "add_special_tokens": False}, with_key=True))
            if count is not None and count - nothing == 1:
                found.append(token)
        return tuple(found)
    return ()


def _tokens(answer: Answer | None) -> int | None:
    body = answer.json() if answer is not None and answer.status == 200 else None
    if isinstance(body, list):  # TGI
        return len(body)
    tokens = body.get("tokens") if isinstance(body, dict) else None
    return len(tokens) if isinstance(tokens, list) else None
