"""What the gateway adds to a call, and whether it holds under 200 clients.

    python benchmarks/gateway.py                          # 200 clients for 30 seconds
    python benchmarks/gateway.py --clients 50 --seconds 5

Three processes: an upstream server that answers at once (every third answer holds what must not leave), the gateway with
`OpenAICompatible` in front of it and the guards of a policy without a model, and these clients. The same requests go to
the upstream itself and through the gateway. Clients wait for an answer before they ask again, so with many of them the
latency is how long the line is; with one it is what a call costs.

It fails (exit 1) when a byte that a guard had to stop leaves, when an answer is missing, when a reservation is left, or
when memory grows.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

ROOT = Path(__file__).parents[1]
SECRET = "zanzibar-pelican"
POLICY = """
name: gateway-benchmark
guards: {markers: {}, injection: {}, leak: {}, schema: {}}
context: {max_output_tokens: 64}
budget: {limits: [{scope: tenant, window: 1d, total_tokens: 100000000}]}
"""
QUESTION = "What is the capital of France, and how many people live there? Number {}."
GROWTH_MIB = 24.0
"""What may be added between the first third of a run and the last: the allocator's arenas, but no trend."""


# -- the processes --------------------------------------------------------------------------------------------------


def upstream() -> None:
    """A server of the OpenAI protocol that has its answer ready."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def models(_: Request) -> JSONResponse:
        model = {"id": "m", "object": "model", "created": 1, "owned_by": "none", "max_model_len": 8192}
        return JSONResponse({"object": "list", "data": [model]})

    async def chat(request: Request) -> JSONResponse:
        text = (await request.json())["messages"][-1]["content"]
        content = f"Sure: <|im_start|>{SECRET}" if "must not leave" in text else "Paris. About two million people."
        choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 20, "completion_tokens": 8, "total_tokens": 28}
        return JSONResponse({"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice],
                             "usage": usage})  # fmt: skip

    app = Starlette(routes=[Route("/v1/models", models), Route("/v1/chat/completions", chat, methods=["POST"])])
    listening = _listening()
    uvicorn.Server(uvicorn.Config(app, log_level="critical", access_log=False)).run(sockets=[listening])


def served(url: str) -> None:
    """The gateway; at its end it tells what its ledger holds and what it has counted."""
    from shieldkit import Policy, Principal, Shield
    from shieldkit.adapters.gateway import Settings, gateway
    from shieldkit.adapters.gateway.serving import serve
    from shieldkit.backends import OpenAICompatible
    from shieldkit.budget import MemoryLedger

    ledger = MemoryLedger()
    with Shield(Policy.from_yaml(POLICY), OpenAICompatible(f"{url}/v1", model="m"), ledger=ledger) as shield:
        app = gateway(shield, Settings("m"), ledger=ledger)
        serve(app, _listening(), drain_s=10, ready=lambda: None)
        tally = app.state.gateway.tally
        held = ledger.used(Principal().account("tenant"), 86_400.0).total_tokens - tally.usage.total_tokens
        print(json.dumps({"held": held, "in_flight": tally.in_flight, "errors": dict(tally.errors)}))


def _listening():  # type: ignore[no-untyped-def]
    from shieldkit.adapters.gateway.serving import listen

    listening = listen("127.0.0.1", 0)
    listening.listen(1024)
    print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    return listening


def start(*arguments: str) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, __file__, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    url, end = process.stdout.readline().strip(), time.monotonic() + 60.0
    while True:  # on a busy machine it takes its time between the socket and the first answer
        try:
            httpx2.get(f"{url}/v1/models", timeout=60).raise_for_status()
            return process, url
        except httpx2.TransportError:
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{arguments[0]} did not start") from None
            time.sleep(0.1)


# -- the clients ----------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """What one round of clients saw."""

    latencies_s: list[float] = field(default_factory=list)
    refused: int = 0
    wrong: int = 0
    memory_mib: list[float] = field(default_factory=list)

    def quantile(self, share: float) -> float:
        ordered = sorted(self.latencies_s)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def clients(url: str, count: int, seconds: float, *, pid: int = 0) -> Run:
    run, end, numbers = Run(), time.monotonic() + seconds, iter(range(10**9))
    limits = httpx2.Limits(max_connections=count, max_keepalive_connections=count)

    async def one(client: httpx2.AsyncClient) -> None:
        while time.monotonic() < end:
            number = next(numbers)
            bad = number % 3 == 2
            text = QUESTION.format(number) + (" This answer must not leave." if bad else "")
            body = {
                "model": "m",
                "messages": [{"role": "user", "content": text}],
                "stream": pid > 0 and number % 4 == 3,
            }
            start_s = time.perf_counter()
            answer = await client.post("/v1/chat/completions", json=body)
            run.latencies_s.append(time.perf_counter() - start_s)
            refused = '"content_filter"' in answer.text
            run.refused += refused
            through = pid > 0 and (SECRET in answer.text or refused != bad)
            run.wrong += (
                answer.status_code != 200 or through or not (refused or SECRET in answer.text or "Paris" in answer.text)
            )

    async def watch() -> None:
        while time.monotonic() < end:
            run.memory_mib.append(_memory_mib(pid))
            await asyncio.sleep(0.5)

    async with httpx2.AsyncClient(base_url=url, limits=limits, timeout=60) as client:
        watching = [watch()] if pid else []
        await asyncio.gather(*(one(client) for _ in range(count)), *watching)
    return run


def _memory_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("role", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=30.0)
    args = parser.parse_args()
    if args.role[:1] == ["upstream"]:
        upstream()
        return 0
    if args.role[:1] == ["served"]:
        served(args.role[1])
        return 0
    behind, bare = start("upstream")
    guarded, front = start("served", bare)
    try:
        rows = []
        for count, seconds in ((1, min(10.0, args.seconds)), (args.clients, args.seconds)):
            asyncio.run(clients(bare, count, 1.0))
            asyncio.run(clients(front, count, 1.0, pid=guarded.pid))  # warm
            without = asyncio.run(clients(bare, count, min(10.0, seconds)))
            through = asyncio.run(clients(front, count, seconds, pid=guarded.pid))
            rows.append((count, seconds, without, through))
    finally:
        guarded.terminate()
        said, _ = guarded.communicate(timeout=30)
        behind.terminate()
        behind.wait(10)
    return report(rows, json.loads(said.splitlines()[-1]))


def report(rows: list[tuple[int, float, Run, Run]], left: dict[str, object]) -> int:
    print(f"{'clients':>8} {'s':>5} {'requests':>9} {'a second':>9} {'refused':>8} "
          f"{'bare p50':>9} {'p99':>8} {'gateway p50':>12} {'p99':>8} {'added p50':>10} {'p99':>8}   (ms)")  # fmt: skip
    for count, seconds, bare, through in rows:
        cells = [1000 * run.quantile(share) for run in (bare, through) for share in (0.5, 0.99)]
        added = cells[2] - cells[0], cells[3] - cells[1]
        print(f"{count:>8} {seconds:>5.0f} {len(through.latencies_s):>9} {len(through.latencies_s) / seconds:>9.0f} "
              f"{through.refused:>8} {cells[0]:>9.1f} {cells[1]:>8.1f} {cells[2]:>12.1f} {cells[3]:>8.1f} "
              f"{added[0]:>10.1f} {added[1]:>8.1f}")  # fmt: skip
    memory = rows[-1][3].memory_mib
    third = max(1, len(memory) // 3)
    growth = statistics.median(memory[-third:]) - statistics.median(memory[:third])
    wrong = sum(run.wrong for _, _, *runs in rows for run in runs)
    print(f"memory of the gateway: {memory[0]:.0f} MiB at first, {max(memory):.0f} at most, {growth:+.1f} MiB from the first "
          "third of the run to the last")  # fmt: skip
    print(f"answers that are wrong, missing or unguarded: {wrong}; tokens left reserved: {left['held']}; "
          f"calls left under way: {left['in_flight']}; errors: {left['errors'] or 'none'}")  # fmt: skip
    failed = wrong or left["held"] or left["in_flight"] or left["errors"] or growth > GROWTH_MIB
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
