"""Real model servers for tests: llama-cpp-python's, started here, and a vLLM server that `make test-vllm` has started."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CONTEXT_TOKENS = 2048
VLLM = os.environ.get("SHIELDKIT_TEST_VLLM")
"""The address of a vLLM server that serves SmolLM2 with `CONTEXT_TOKENS` tokens, or None."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@contextmanager
def llama_cpp_python(model: Path) -> Iterator[str]:
    """`python -m llama_cpp.server`, with one thread for reading too: two that wait for each other take all of two cores."""
    port = free_port()
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(model), "--n_ctx", str(CONTEXT_TOKENS),
               "--n_threads", "1", "--n_threads_batch", "1", "--host", "127.0.0.1", "--port", str(port),
               "--model_alias", "smollm2", "--verbose", "False"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _ready(f"http://127.0.0.1:{port}/v1/models", process)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(20)


def _ready(url: str, process: subprocess.Popen[bytes], within_s: float = 100.0) -> None:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        assert process.poll() is None, "the server ended"
        try:
            urllib.request.urlopen(url, timeout=2).read()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the server does not answer")
