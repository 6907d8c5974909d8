"""Topical rails: what passes on topic, and what is caught off topic, on surfaces made of CLINC150 (CC-BY-3.0).

    python benchmarks/topics.py [--corpus ../shared/corpora/topics.json.gz] [--json out.json] [--validate]

For each surface a rail pack is written to a temporary folder, with the surface's example utterances as its only
training, and loaded into the real `TopicGuard` (ONNX embeddings, NeMo Guardrails). Thresholds come from the examples.
The baseline is the mean similarity of the three nearest examples under the same embeddings, with its threshold chosen
*on the test rows* to pass 95 % of them: an advantage that the guard does not have.

`--validate` does not touch the test rows: it cross-validates on the examples alone (a quarter of each intent held out,
the other surfaces' examples as off topic). That is what methods and weights were chosen by.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shieldkit.conversation import Conversation
from shieldkit.embedding import NearestExamples, SentenceEmbedder
from shieldkit.guards.base import Inspection
from shieldkit.guards.topics import TopicGuard
from shieldkit.outcome import Stage
from shieldkit.policy.model import TopicSettings
from shieldkit.rails.judge import Known, read_background
from shieldkit.text import canonicalise

CONFIG = """colang_version: "1.0"
rails:
  input: {flows: [topic guard]}
  output: {flows: [topic guard output]}
custom_data: {surface: SURFACE, pleasantries: false}
"""
FLOWS = """
define bot refuse off topic
  "I can not help with that."

define flow topic guard
  $on_topic = execute topic_guard
  if not $on_topic
    bot refuse off topic
    stop

define flow topic guard output
  $on_topic = execute topic_guard
  if not $on_topic
    bot refuse off topic
    stop
"""


def write_pack(folder: Path, surface: str, intents: Mapping[str, Sequence[str]]) -> None:
    """A rail pack whose only examples are the given ones. Small talk is not on topic here: the corpus says so."""
    folder.mkdir()
    (folder / "config.yml").write_text(CONFIG.replace("SURFACE", surface))
    defined = [
        f"define user {name.replace('_', ' ')}\n" + "".join(f'  "{u.replace(chr(34), chr(39))}"\n' for u in utterances)
        for name, utterances in intents.items()
    ]
    (folder / "topics.co").write_text("\n".join(defined) + FLOWS)


def refused(guard: TopicGuard, text: str) -> bool:
    """Whether the guard, at its default threshold, finds a turn off topic."""
    conversation = Conversation.of(text)
    inspection = Inspection("topics", Stage.INPUT, conversation, (0,), lambda _: canonicalise(text))
    return any(f.score >= 0.5 for f in guard.check(inspection).findings)


def baseline(surface: Mapping[str, Any], embedder: SentenceEmbedder) -> dict[str, float]:
    """Mean cosine of the three nearest examples; the threshold passes 95 % of the on-topic test rows."""
    examples = embedder.encode([u for us in surface["intents"].values() for u in us])

    def scores(texts: Sequence[str]) -> Any:
        return np.sort(embedder.encode(texts) @ examples.T, axis=1)[:, -3:].mean(axis=1)

    on = scores(surface["on_topic"])
    threshold = np.quantile(on, 0.05)
    return {
        "pass": float((on >= threshold).mean()),
        "other_surfaces": float((scores(surface["off_topic_other_domain"]) < threshold).mean()),
        "out_of_scope": float((scores(surface["off_topic_out_of_scope"]) < threshold).mean()),
    }


def measure(surface: Mapping[str, Any]) -> dict[str, Any]:
    """One surface through the whole guard, each row for the first time, one after the other."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "pack"
        write_pack(folder, surface["domain"].replace("_", " "), surface["intents"])
        start = time.perf_counter()
        guard = TopicGuard(TopicSettings(pack=str(folder)))
        start_s = time.perf_counter() - start
    kinds = {
        "on_topic": "on_topic",
        "other_surfaces": "off_topic_other_domain",
        "out_of_scope": "off_topic_out_of_scope",
    }
    rates, wall_ms, cpu_ms = {}, [], []
    refused(guard, "warm up")
    for kind, key in kinds.items():
        outcomes = []
        for text in surface[key]:
            wall, cpu = time.perf_counter(), time.process_time()
            outcomes.append(refused(guard, text))
            cpu_ms.append((time.process_time() - cpu) * 1e3)
            wall_ms.append((time.perf_counter() - wall) * 1e3)
        rates[kind] = sum(outcomes) / len(outcomes)
    guard.close()
    off = len(surface[kinds["other_surfaces"]]), len(surface[kinds["out_of_scope"]])
    return {
        "surface": surface["domain"], "pass": 1 - rates["on_topic"], "other_surfaces": rates["other_surfaces"],
        "out_of_scope": rates["out_of_scope"],
        "caught": (rates["other_surfaces"] * off[0] + rates["out_of_scope"] * off[1]) / sum(off),
        "median_ms": statistics.median(wall_ms), "p99_ms": float(np.quantile(wall_ms, 0.99)),
        "median_cpu_ms": statistics.median(cpu_ms), "start_s": start_s,
    }  # fmt: skip


def validate(surfaces: Sequence[Mapping[str, Any]], embedder: SentenceEmbedder) -> list[dict[str, Any]]:
    """Four-fold cross-validation on the examples alone; folds are runs of five, since neighbours are paraphrases."""
    subjects, texts = read_background()
    background = Known.load(embedder).vectors(texts)
    vectors = {s["domain"]: {k: embedder.encode(us) for k, us in s["intents"].items()} for s in surfaces}
    rows = []
    for name, intents in vectors.items():
        others = np.concatenate([v for other, kinds in vectors.items() if other != name for v in kinds.values()])
        passed, caught = [], []
        for fold in range(4):
            held = {k: np.arange(len(v)) * 4 // len(v) == fold for k, v in intents.items()}
            train = np.concatenate([v[~held[k]] for k, v in intents.items()])
            labels = [k for k, v in intents.items() for _ in range(int((~held[k]).sum()))]
            model = NearestExamples.fit(train, labels, background, subjects)
            passed.append((model.off_scores(np.concatenate([v[held[k]] for k, v in intents.items()])) < 0.5).mean())
            caught.append((model.off_scores(others) >= 0.5).mean())
        rows.append({"surface": name, "pass": float(np.mean(passed)), "caught": float(np.mean(caught))})
    return rows


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    """Markdown, with a line of means at the end."""
    print("| surface | " + " | ".join(columns.values()) + " |")
    print("| --- |" + " ---: |" * len(columns))
    mean = {key: statistics.mean(row[key] for row in rows) for key in columns}
    for row in [*rows, {"surface": "**mean**", **mean}]:
        cells = [f"{row[k]:.1f}" if k.endswith(("_ms", "_s")) else f"{100 * row[k]:.1f} %" for k in columns]
        print(f"| {row['surface']} | " + " | ".join(cells) + " |")


def main() -> None:
    """Parse the command line, run, print, and write JSON when asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).resolve().parents[2] / "shared" / "corpora" / "topics.json.gz"
    parser.add_argument("--corpus", type=Path, default=default)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--validate", action="store_true")
    options = parser.parse_args()
    surfaces = json.loads(gzip.decompress(options.corpus.read_bytes()))
    embedder = SentenceEmbedder.builtin()
    if options.validate:
        rows = validate(surfaces, embedder)
        table(rows, {"pass": "on topic passed", "caught": "other surfaces' examples caught"})
    else:
        rows = [{**measure(s), **{f"baseline_{k}": v for k, v in baseline(s, embedder).items()}} for s in surfaces]
        quality = {"pass": "on topic passed", "other_surfaces": "other surfaces caught",
                   "out_of_scope": "out of scope caught", "caught": "all off topic caught"}  # fmt: skip
        table(rows, quality)
        print()
        table(rows, {"median_ms": "median ms", "p99_ms": "p99 ms", "median_cpu_ms": "CPU ms", "start_s": "start-up s"})
        print("\nBaseline: three nearest, threshold chosen on the test rows")
        table(rows, {f"baseline_{k}": v for k, v in quality.items() if k != "caught"})
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
