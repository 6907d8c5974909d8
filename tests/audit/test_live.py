"""Running servers: what they tell without a key. Real sockets; a real llama-cpp-python server where it is installed."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from shieldkit import Policy
from shieldkit.audit import Allowlist, audit, live

Respond = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def serving(respond: Respond) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            respond(self)

        def do_POST(self) -> None:
            respond(self)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def answers(table: dict[str, Any], *, key: str = "", headers: dict[str, str] | None = None) -> Respond:
    """A server that answers by path: a value is JSON, bytes are a body, a function is called with the request's body."""

    def respond(request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("content-length") or 0))
        content: Any = table.get(request.path)
        status = 200 if content is not None else 404
        if key and request.path.startswith("/v1") and request.headers.get("authorization") != f"Bearer {key}":
            status, content = 401, {"error": "unauthorized"}
        if callable(content):
            content = content(json.loads(body))
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        request.send_response(status)
        for name, value in (headers or {}).items():
            request.send_header(name, value)
        request.send_header("content-length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    return respond


def tokenize(body: dict[str, Any]) -> dict[str, Any]:
    text = body["prompt"]
    return {"tokens": [1] * (1 + ("<|im_start|>" in text) + 5 * ("[INST]" in text))}


MODELS = {"data": [{"id": "/srv/models/qwen3-8b", "max_model_len": 262_144}]}


def rules(url: str, **held: Any) -> set[str]:
    report = audit(urls=[url], **held)
    assert report.unreadable == ()
    return {f.rule.id for f in report.findings}


def test_an_open_server_is_told_what_it_shows() -> None:
    table = {
        "/v1/models": MODELS, "/slots": [{}], "/metrics": b"# TYPE vllm:requests counter\n", "/openapi.json": {"paths": {}},
        "/server_info": {"vllm_config": ""}, "/tokenizer_info": {"chat_template": ""}, "/tokenize": tokenize,
    }  # fmt: skip
    headers = {"access-control-allow-origin": "*", "access-control-allow-credentials": "true"}
    with serving(answers(table, headers=headers)) as url:
        found = rules(url + "/v1", allowed=Allowlist.of(["other"]))
    assert found == {
        "live-open", "live-path-shown", "live-parses-control-tokens", "slots-endpoint", "metrics-endpoint", "api-docs",
        "dev-mode", "tokenizer-exposed", "cors-any-origin", "context-over-128k", "model-not-allowed",
    }  # fmt: skip


def test_a_closed_server_is_clean_and_its_key_opens_what_is_needed() -> None:
    models = {"data": [{"id": "qwen3-8b", "max_model_len": 32_768}]}
    with serving(answers({"/v1/models": models, "/version": {"version": "1"}}, key="k3y")) as url:
        assert rules(url) == set()
        policy = Policy.from_yaml("name: p\ncontext: {max_tokens: 65536}\nguards: {markers: {}}")
        assert rules(url, key="k3y", policy=policy) == {"context-below-policy"}
        small = Policy.from_yaml("name: p\ncontext: {max_tokens: 8192}\nguards: {markers: {}}")
        assert rules(url, key="k3y", policy=small) == {"context-above-policy"}
        (unreadable,) = audit(urls=[url], key="wrong").unreadable
        assert unreadable.problem == "does not take the key that was given"


def test_paths_beside_v1_that_need_no_key_are_found() -> None:
    with serving(
        answers({"/v1/models": MODELS, "/invocations": lambda body: {"error": "no messages"}}, key="k")
    ) as url:
        assert rules(url) == {"paths-without-key"}


def test_an_origin_that_is_echoed_is_found() -> None:
    headers = {"access-control-allow-origin": live.ORIGIN}
    with serving(answers({"/version": {}}, headers=headers)) as url:
        assert rules(url) == {"cors-wildcard"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[",
        b"null",
        b'{"data": 7}',
        b'{"data": [7, {"id": 7}, {"id": "m", "max_model_len": "x"}]}',
        b"[" * 100_000,
    ],
)
def test_answers_are_input(body: bytes) -> None:
    table = dict.fromkeys(
        ("/v1/models", "/props", "/info", "/slots", "/openapi.json", "/server_info", "/tokenize"), body
    )
    with serving(answers(table)) as url:
        assert rules(url) == {"live-open"}


def test_a_redirect_is_not_followed() -> None:
    reached = []

    def elsewhere(request: BaseHTTPRequestHandler) -> None:
        reached.append(request.path)
        answers({})(request)

    with serving(elsewhere) as target:

        def redirect(request: BaseHTTPRequestHandler) -> None:
            request.send_response(302)
            request.send_header("location", f"{target}/v1/models")
            request.send_header("content-length", "0")
            request.end_headers()

        with serving(redirect) as url:
            assert rules(url) == set()
    assert reached == []


def test_a_body_without_end_and_a_slow_one_end_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "REQUEST_TIMEOUT_S", 0.5)
    monkeypatch.setattr(live, "DEADLINE_S", 3.0)

    def endless(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        try:
            while True:
                request.wfile.write(b"x" * 100_000 if request.path == "/v1/models" else b"x")
                if request.path != "/v1/models":
                    time.sleep(0.1)
        except OSError:
            pass

    began = time.monotonic()
    with serving(endless) as url:
        report = audit(urls=[url])
    assert time.monotonic() - began < 15
    assert {f.rule.id for f in report.findings} <= {"live-open"}


def test_nobody_there_and_no_address_have_no_verdict() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for url, problem in (
        (f"http://127.0.0.1:{port}", "does not answer"), ("file:///etc/passwd", "is no address"),
        ("http://", "is no address"), ("http://user:secret@127.0.0.1", "is no address"),
    ):  # fmt: skip
        (unreadable,) = audit(urls=[url]).unreadable
        assert problem in unreadable.problem


def test_every_probe_is_a_known_control_token() -> None:
    from shieldkit.markers.catalogue import catalogue

    assert set(live._PROBES) <= {token.text for token in catalogue()}


@pytest.mark.skipif(
    any(
        find_spec(m) is None for m in ("uvicorn", "fastapi", "pydantic_settings", "sse_starlette", "starlette_context")
    ),
    reason="llama-cpp-python's server is not installed: pip install 'llama-cpp-python[server]'",
)
def test_a_real_server_of_llama_cpp_python(smollm2_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "llama_cpp.server", "--model", str(smollm2_path), "--port", str(port), "--n_ctx", "2048",
        "--n_threads", "1",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(600):
                try:
                    urllib.request.urlopen(f"{url}/v1/models", timeout=1).close()
                    break
                except OSError:
                    assert process.poll() is None
                    time.sleep(0.1)
            found = rules(url)
        finally:
            process.terminate()
    assert {"live-open", "live-parses-control-tokens", "live-path-shown", "api-docs"} <= found
