"""Gateways that run: in this process on a thread of their own, or as the command that users start. Real sockets."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from starlette.applications import Starlette

from shieldkit.adapters.gateway.serving import listen, server


@contextmanager
def in_process(app: Starlette) -> Iterator[str]:
    """Serve an app on a thread; gives its address."""
    listening = listen("127.0.0.1", 0)
    ready = threading.Event()
    running = server(app, drain_s=5, ready=ready.set)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        running.should_exit = True
        thread.join(15)
        assert not thread.is_alive()


@contextmanager
def command(*args: str, cwd: Path | None = None) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`shieldkit serve --port 0 …` as a process; gives its address and the process."""
    shieldkit = Path(sys.executable).parent / "shieldkit"
    process = subprocess.Popen([shieldkit, "serve", "--port", "0", *args], stderr=subprocess.PIPE, text=True, cwd=cwd)
    try:
        yield _address(process), process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        finally:
            if process.stderr is not None:
                process.stderr.close()


def _address(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if found := re.search(r"on (http://\S+)/v1;", line):
            return found[1]
    raise AssertionError(f"the command ended with {process.wait()}: {''.join(said)}")


def until(holds: object, within_s: float = 5.0) -> None:
    """Wait until `holds()` is true."""
    assert callable(holds)
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end, "it did not come to be so in time"
        time.sleep(0.01)
