"""What the LangChain adapters add to a call, over LangChain's own machinery and over the shield's.

    python benchmarks/adapters.py [--runs N] [--json FILE]

The backend answers at once. "no-op" is a `RunnableLambda` that returns a message: LangChain's own cost of a call.
"shield" is `Shield.invoke` alone, with the guards of `builtin:default` on a 500-character prompt that they have seen
before. The adapter's own cost is what is left of its row when both are taken away. "cpu" counts
all threads of the process, and so holds on a machine that has other work too; "wall" does not. The agent rows are whole
runs of an agent that calls one tool: two calls of the model, one of the tool.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool

from shieldkit import Shield
from shieldkit.adapters.langchain import ShieldedChatModel, ShieldMiddleware, ShieldRunnable
from tests.adapters.chat_models import ScriptedChat
from tests.scripted import Scripted

PROMPT = ("Could you please compare the two offers that I got last week, and tell me which is better for me? " * 6)[
    :500
]


def timed(function: Callable[[], Any], runs: int) -> dict[str, float]:
    """Mean CPU time of a call, and the median and 99th percentile of what a caller waits; in microseconds."""
    for _ in range(20):
        function()
    waited, cpu_ns = [], time.process_time_ns()
    for _ in range(runs):
        start = time.perf_counter_ns()
        function()
        waited.append((time.perf_counter_ns() - start) / 1e3)
    cpu_us = (time.process_time_ns() - cpu_ns) / 1e3 / runs
    return {"cpu_us": cpu_us, "median_us": statistics.median(waited), "p99_us": sorted(waited)[int(0.99 * runs)]}


def calls_once(messages: list[Any]) -> AIMessage:
    """Calls the tool, and then answers."""
    if isinstance(messages[-1], ToolMessage):
        return AIMessage("The first one.")
    return AIMessage("", tool_calls=[{"name": "offers", "args": {}, "id": "call_1"}])


@tool
def offers() -> str:
    """The two offers."""
    return "The first offer is 100, the second 120."


class Forgetful(ScriptedChat):
    """Keeps nothing of what it was asked, so that a long run stays as fast as a short one."""

    def _next(self, messages: list[Any], kwargs: dict[str, Any]) -> AIMessage:
        answer = super()._next(messages, kwargs)
        self.seen.clear()
        return answer


def cases(shield: Shield) -> dict[str, Callable[[], Any]]:
    """Each call by name."""
    noop = RunnableLambda(lambda _: AIMessage("The first one."))
    runnable, model = ShieldRunnable(shield), ShieldedChatModel(shield=shield)
    bare, plain = Forgetful(answers=["The first one."]), Forgetful(answers=[calls_once])
    asked = {"messages": [HumanMessage(PROMPT)]}
    guarded = create_agent(plain, [offers], middleware=[ShieldMiddleware(shield)])
    unguarded = create_agent(plain, [offers])
    return {
        "no-op runnable": lambda: noop.invoke(PROMPT),
        "shield": lambda: shield.invoke(PROMPT),
        "ShieldRunnable": lambda: runnable.invoke(PROMPT),
        "no-op chat model": lambda: bare.invoke(PROMPT),
        "ShieldedChatModel": lambda: model.invoke(PROMPT),
        "agent": lambda: unguarded.invoke(asked),
        "agent, ShieldMiddleware": lambda: guarded.invoke(asked),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with Shield("builtin:default", Scripted("The first one.")) as shield:
        rows = {name: timed(case, options.runs) for name, case in cases(shield).items()}
    print(f"{'':26} {'cpu':>10} {'wall':>10} {'wall p99':>10}")
    for name, row in rows.items():
        print(f"{name:26} {row['cpu_us']:>7.0f} us {row['median_us']:>7.0f} us {row['p99_us']:>7.0f} us")
    own = rows["ShieldRunnable"]["cpu_us"] - rows["no-op runnable"]["cpu_us"] - rows["shield"]["cpu_us"]
    print(f"\nShieldRunnable, beside LangChain's machinery and the shield: {own:.0f} us")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
