"""Thresholds of the cascade, from texts whose sources the scoring models had not seen.

    python -m training.calibrate SWEEP.pt OUT.json UNSEEN.jsonl HELD_OUT.jsonl [HELD_OUT.jsonl ...]

All files are `training.evaluate`'s. The first has the logits of the shipped encoder on ordinary text that it was not
trained on: a head's threshold is the logit that the allowed share of it reaches. The others are of the models of each
fold, on what they were not trained on: the slope of the score is Platt's on these. What the sweep hands to the encoder is
decided on long ordinary text: a window is *likely* when it is higher than 85 in 100 ordinary windows, *certain* when
higher than 999 in 1,000.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import numpy as np
import torch

from shieldkit.injection.features import Vocabulary, words
from shieldkit.injection.windows import WINDOW
from training import sources
from training.sweep_model import Sweep, padded, rows_of, vocabulary

ALLOWED = {"benign_chat": 0.01, "unseen": 0.0006}
LIKELY, CERTAIN = 0.85, 0.999
HEADS = {"direct": 0, "data": 1}


def held_out(paths: list[str]) -> list[dict]:
    """The rows of all files, each with `top`: its highest logit for each head."""
    found = []
    for path in paths:
        with Path(path).open(encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                row["top"] = np.array(row["logits"]).max(axis=0)
                found.append(row)
    return found


def threshold(rows: list[dict], head: str) -> float:
    """The lowest logit that keeps every kind's false alarms within what is allowed."""
    most = -np.inf
    for kind, share in ALLOWED.items():
        # A question is no attack from a user; what it would be in a document is not asked.
        asked = [
            r for r in rows if r["kind"] == kind and r["direct"] == 0 and (head == "direct" or r["role"] != "user")
        ]
        if len(asked) >= 50:
            most = max(most, float(np.quantile([r["top"][HEADS[head]] for r in asked], 1 - share)))
    return most


def slope(rows: list[dict], head: str, shift: float) -> float:
    """Platt's slope with the shift fixed, attacks and ordinary texts weighing the same."""
    on = np.array([r["top"][HEADS[head]] for r in rows if r[head] == 1]) - shift
    off = np.array([r["top"][HEADS[head]] for r in rows if r[head] == 0]) - shift
    scales = np.linspace(0.2, 4, 200)
    losses = [np.logaddexp(0, -s * on).mean() + np.logaddexp(0, s * off).mean() for s in scales]
    return float(scales[int(np.argmin(losses))])


def swept(path: str) -> np.ndarray:
    """The sweep's highest logits in windows of ordinary long text, shape (windows, 2)."""
    from shieldkit.text.folding import fold

    known, _ = vocabulary(Path("shieldkit/embedding/minilm_vocab.txt"))
    vocab = Vocabulary.of(np.concatenate([words(w)[0] for w in known]))
    model = Sweep(len(vocab))
    model.load_state_dict(torch.load(path))
    model.eval()
    rng = random.Random(3)
    texts = []
    for text in sources.haystacks().values():
        for _ in range(3000):
            at = rng.randrange(len(text) - WINDOW)
            texts.append(fold(text[at : at + WINDOW])[0])
    found = []
    with torch.inference_mode():
        for start in range(0, len(texts), 128):
            logits = model.positions(padded([rows_of(vocab, t) for t in texts[start : start + 128]]))
            found.append(logits.max(dim=-1).values.numpy())
    return np.concatenate(found)


def main() -> None:
    """Calibrate, and say what share of the held-out texts of each kind reaches the threshold."""
    unseen, rows = held_out(sys.argv[3:4]), held_out(sys.argv[4:])
    windows = swept(sys.argv[1])
    out = []
    for head, column in HEADS.items():
        shift = threshold(unseen, head)
        scale = slope(rows, head, shift)
        likely, certain = (float(np.quantile(windows[:, column], q)) for q in (LIKELY, CERTAIN))
        out.append([1.0, certain + 4.0, scale, shift, likely, certain])
        print(f"{head}: threshold {shift:.2f}, slope {scale:.2f}, likely {likely:.2f}, certain {certain:.2f}")
    Path(sys.argv[2]).write_text(json.dumps({"rows": out}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
