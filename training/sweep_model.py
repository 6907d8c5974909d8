"""Trains the sweep: a small convolutional network over words, for every position of a text.

    python -m training.sweep_model SET.jsonl OUT.pt --fold K      trained without the sources of fold K (0: on everything)

Word embeddings start from those of the encoder's base model (`training/base.py`), projected by a matrix that is learned: a
word that the training texts lack still stands near its likes. Four convolutions with growing gaps see 31 words, half of a
position's logits is the mean over those next to it, and the score of a text is that of its highest positions, so what is learned is
where an attack stands (multiple-instance learning with max pooling).
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from shieldkit.injection.features import SHAPES, Vocabulary, words
from shieldkit.injection.sweep import GAPS, NEAR
from training.sources import trained_on

EMBEDDING, CHANNELS = 32, 40
MOST = 200
NOTHING = -30.0


def vocabulary(path: Path) -> tuple[Vocabulary, np.ndarray, torch.Tensor]:
    """The sweep's words, their hashes, and an embedding for each row of its table: zeros for shapes."""
    base = torch.load(path)
    hashes = np.concatenate([words(w)[0] for w in base["words"]])
    return Vocabulary.of(hashes), hashes, torch.cat([torch.zeros(SHAPES + 1, 384), base["vectors"]])


class Sweep(nn.Module):
    """Rows (batch, words) to logits (batch, 2): direct, data. Row -1 is no word."""

    def __init__(self, size: int, pieces: torch.Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("pieces", pieces if pieces is not None else torch.zeros(size, 384))
        self.project = nn.Linear(384, EMBEDDING, bias=False)
        self.own = nn.Embedding(size, EMBEDDING)
        nn.init.normal_(self.own.weight, std=0.01)
        widths = [EMBEDDING, *[CHANNELS] * len(GAPS)]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(a, b, 3, dilation=gap) for a, b, gap in zip(widths, widths[1:], GAPS, strict=False)
        )
        self.head = nn.Conv1d(CHANNELS, 2, 1)
        self.drop = nn.Dropout(0.1)

    def table(self) -> torch.Tensor:
        """The embedding of each row."""
        return self.project(self.pieces) + self.own.weight

    def positions(self, rows: torch.Tensor) -> torch.Tensor:
        """Logits of each position (batch, 2, words), half of them the mean over those next to it; `NOTHING` where no word is."""
        inside = (rows >= 0)[:, None].float()
        x = self.drop(self.table()[rows.clamp(min=0)]).transpose(1, 2) * inside
        for convolution, gap in zip(self.convolutions, GAPS, strict=True):
            x = torch.relu(convolution(nn.functional.pad(x, (gap, gap)))) * inside  # zeros behind a text too
        logits = self.head(self.drop(x)) * inside
        width = 2 * NEAR + 1
        around, count = (nn.functional.avg_pool1d(y, width, 1, NEAR, count_include_pad=True) for y in (logits, inside))
        return ((logits + around / count.clamp(min=1e-3)) / 2).masked_fill(inside == 0, NOTHING)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        out = self.positions(rows)
        top = out.topk(min(3, out.shape[-1]), dim=-1).values
        return top.mean(-1)


def rows_of(vocab: Vocabulary, text: str) -> np.ndarray:
    """The rows of a text, at most `MOST` of them."""
    hashed, begins, ends = words(text)
    return vocab.numbers(text, hashed, begins, ends)[:MOST]


def padded(rows: list[np.ndarray]) -> torch.Tensor:
    """One tensor, -1 behind."""
    out = np.full((len(rows), max(8, *map(len, rows))), -1, np.int64)
    for line, row in zip(out, rows, strict=True):
        line[: len(row)] = row
    return torch.from_numpy(out)


def train(rows: list[np.ndarray], labels: torch.Tensor, weights: torch.Tensor, model: Sweep, *, epochs: int, rate: float,
          seed: int) -> None:  # fmt: skip
    """BCE on the pooled logits; labels of -1 say nothing."""
    rng = random.Random(seed)
    optimiser = torch.optim.AdamW(
        [{"params": [model.own.weight], "weight_decay": 0.2}, {"params": [p for n, p in model.named_parameters() if n != "own.weight"]}],
        lr=rate, weight_decay=0.02,
    )  # fmt: skip
    started, seen, total = time.time(), 0.0, 0
    plan = []
    for _ in range(epochs):
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]) + rng.random() * 6)
        batches = [order[i : i + 64] for i in range(0, len(order), 64)]
        rng.shuffle(batches)
        plan += batches
    model.train()
    for step, batch in enumerate(plan):
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 200) * max(0.02, 1 - step / len(plan))
        x, y = padded([rows[i] for i in batch]), labels[batch]
        # Words are hidden, so that no single one is all there is.
        x = torch.where((torch.rand(x.shape) < 0.08) & (x >= 0), torch.randint(0, SHAPES, x.shape), x)
        said = (y >= 0).float() * weights[batch][:, None]
        loss = (nn.functional.binary_cross_entropy_with_logits(model(x), y.clamp(0, 1) * 0.99 + 0.005, reduction="none") * said
                ).sum() / said.sum().clamp(min=1)  # fmt: skip
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        seen, total = 0.99 * seen + 0.01 * loss.item(), total + 1
        if step % 1000 == 0:
            print(f"{step}/{len(plan)} loss {seen / (1 - 0.99**total):.4f} {time.time() - started:.0f} s", flush=True)
    model.eval()


def main() -> None:
    """Train on a set as `training.build` writes it."""
    p = argparse.ArgumentParser()
    p.add_argument("set")
    p.add_argument("out")
    p.add_argument("--fold", type=int, default=0)
    p.add_argument("--epochs", type=int, default=6)
    p.add_argument("--rate", type=float, default=2e-3)
    p.add_argument("--words", type=Path, required=True, help="words.pt of training.base")
    p.add_argument("--start", type=Path, help="weights to go on from")
    p.add_argument("--seed", type=int, default=11)
    a = p.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    with Path(a.set).open(encoding="utf-8") as lines:
        data = [json.loads(line) for line in lines]
    data = [r for r in data if trained_on(r["folds"], a.fold)]
    vocab, _, vectors = vocabulary(a.words)
    rows = [rows_of(vocab, r["text"]) for r in data]
    keep = [i for i, r in enumerate(rows) if len(r)]
    labels = torch.tensor(
        [[-1 if data[i][h] is None else data[i][h] for h in ("direct", "data")] for i in keep]
    ).float()
    weights = torch.tensor([min(1.5, max(0.1, data[i]["weight"])) for i in keep])
    model = Sweep(len(vocab), vectors)
    if a.start:
        model.load_state_dict(torch.load(a.start))
    train([rows[i] for i in keep], labels, weights, model, epochs=a.epochs, rate=a.rate, seed=a.seed)
    torch.save(model.state_dict(), a.out)


if __name__ == "__main__":
    main()
