"""Trains the skim: a small convolutional network over the encoder's embeddings, for what is around a sweep's peak.

    python -m training.skim cut SET.jsonl OUT.jsonl
    python -m training.skim train CUT.jsonl OUT.pt
    python -m training.skim export OUT.pt

Most peaks that the sweep hands on are ordinary; the skim lets most of those go at a fifteenth of what half of the encoder costs.
It reads what is around a peak (`Window.near`), in the embeddings that ship, `encoder_words.onnx`, and learns to say what the
encoder would (Hinton et al. 2015, "Distilling the Knowledge in a Neural Network"). `cut` makes what it learns from, with the
encoder's answers: the set, cut around the sweep's highest peak in each row, and all peaks of the ordinary texts that
`training.mine` reads. It takes an hour of a core, training a quarter of one.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from shieldkit.injection import Detector, load
from shieldkit.injection.detector import LEAST_LIKELY
from shieldkit.injection.windows import Window, around_peaks
from shieldkit.text import canonicalise
from training import mine
from training.encoder import WIDTH, batches, encode, padded, pieces
from training.pack import FOLDER, half, write

CHANNELS, GAPS = 96, (1, 2, 4, 8)
MOST_PEAKS = 120
TOKENS = 3000
"""In a batch."""
SHARES = {"attack": 0.6, "benign_chat": 0.3, "ordinary": 0.5}
"""How much of the set is cut: asking the encoder takes longest."""
DOUBT = 0.5
"""How much of an attack the encoder's opinion still makes of what is labelled ordinary."""


class Skim(nn.Module):
    """Embeddings (batch, tokens, `WIDTH`) to two logits (batch, 2): direct, data. `alive` is 1 where a token is, 0 behind the text."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(WIDTH, CHANNELS)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(CHANNELS, CHANNELS, (1, 3), dilation=gap, padding=(0, gap)) for gap in GAPS
        )
        self.look, self.say = nn.Conv2d(CHANNELS, 2, 1), nn.Conv2d(CHANNELS, 2, 1)
        self.whole = nn.Linear(CHANNELS, 2)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor, alive: torch.Tensor) -> torch.Tensor:
        inside = alive[:, None, None, :]
        x = self.project(self.drop(x)).transpose(1, 2)[:, :, None] * inside
        for convolution in self.convolutions:
            x = (x + torch.relu(convolution(x))) * inside
        x = self.drop(x)
        share = torch.softmax(self.look(x) + (inside - 1.0) * 1e4, -1)
        mean = x.sum((2, 3)) / alive.sum(1, keepdim=True)
        return (share * self.say(x)).sum((2, 3)) + self.whole(mean)


class OfOne(nn.Module):
    """The skim of one text: there is nothing behind it."""

    def __init__(self, skim: Skim) -> None:
        super().__init__()
        self.skim = skim

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        own = self.skim
        x = own.project(x).transpose(1, 2)[:, :, None]
        for convolution in own.convolutions:
            x = x + torch.relu(convolution(x))
        share = torch.softmax(own.look(x), -1)
        return (share * own.say(x)).sum((2, 3)) + own.whole(x.mean((2, 3)))


def peaks(detector: Detector, text: str, most: int, likely: float = LEAST_LIKELY) -> list[Window]:
    """The windows around the highest peaks of a canonical text, none of which is read closely."""
    swept = detector.sweep.read(text, lambda logits: detector.margin(logits, [0, 1]))
    if not len(swept.logits):
        return []
    windows = around_peaks(swept.logits, swept.begins, text, certain=np.inf, likely=likely, most=most)
    return [replace(window, closely=False) for window in windows]


def near(detector: Detector, text: str, most: int, likely: float = LEAST_LIKELY) -> Iterator[str]:
    """What is around them."""
    for window in peaks(detector, text, most, likely):
        start, end = window.near(text)
        if text[start:end].strip():
            yield text[start:end]


def cut(given: str, out: str) -> None:
    """Write what is learned from: text, labels, and the encoder's logits; all peaks of ordinary texts, and a share of the set."""
    detector, rng = load(), random.Random(3)

    def found() -> Iterator[dict[str, Any]]:
        with Path(given).open(encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                kind = "attack" if 1 in (row["direct"], row["data"]) else row["kind"]
                if rng.random() < SHARES.get(kind, SHARES["ordinary"]):
                    for text in near(detector, row["text"], 1, -np.inf):
                        yield {"text": text, "direct": row["direct"], "data": row["data"]}
        for _, ordinary in mine.texts():
            for text in near(detector, canonicalise(ordinary).text, MOST_PEAKS):
                yield {"text": text, "direct": 0, "data": 0, "peak": True}

    with Path(out).open("w", encoding="utf-8") as file:
        for row in found():
            row["encoder"] = [round(float(logit), 2) for logit in detector.encoder.read(row["text"])]
            file.write(json.dumps(row) + "\n")


def targets(rows: list[dict[str, Any]]) -> tuple[torch.Tensor, torch.Tensor]:
    """What is to be said of each row, and how much it counts: (rows, 2) and (rows,).

    That is what the encoder says, less of an attack where the label says ordinary. An attack that it does not find need not be
    handed to it.
    """
    labels = torch.tensor([[-1 if r[h] is None else r[h] for h in ("direct", "data")] for r in rows])
    said = torch.tensor([r["encoder"] for r in rows])
    wanted = torch.sigmoid(said) * torch.where(labels == 0, DOUBT, 1.0)
    found = ((labels == 1) & (said > 1)).any(1)
    missed = (labels == 1).any(1) & ~found
    peaks = torch.tensor([r.get("peak", False) for r in rows])
    return wanted, torch.where(found | peaks, 1.5, torch.where(missed, 0.5, 1.0))


def embedder() -> nn.Module:
    """The embeddings that ship: ids (batch, tokens) to (batch, tokens, `WIDTH`)."""
    graph = onnx.load(str(FOLDER / "encoder_words.onnx")).graph
    arrays = {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer}
    constants = [numpy_helper.to_array(n.attribute[0].t) for n in graph.node if n.op_type == "Constant"]
    places = next(a for a in [*arrays.values(), *constants] if a.shape[-2:] == (512, WIDTH))
    parts = {name: torch.tensor(array) for name, array in arrays.items()}

    class Embedder(nn.Module):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            x = parts["words.rounded"][ids].float() * parts["words.scale"][ids]
            x = x + torch.tensor(places).reshape(512, WIDTH)[: ids.shape[1]]
            return nn.functional.layer_norm(x, (WIDTH,), parts["norm.weight"], parts["norm.bias"], 1e-12)

    return Embedder()


def train(given: str, out: str, start: str | None, seed: int, epochs: int, rate: float) -> None:
    """Binary cross-entropy on both heads. Words are hidden, so that no single one is all there is."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    with Path(given).open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    ids = encode(pieces(), [r["text"] for r in rows])
    wanted, weights = targets(rows)
    model, embedded = Skim(), embedder()
    if start is not None:
        model.load_state_dict(torch.load(start))
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.02)
    plan = [batch for _ in range(epochs) for batch in batches(ids, TOKENS, rng)]
    started, seen = time.time(), 0.0
    model.train()
    for step, batch in enumerate(plan):
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 200) * max(0.02, 1 - step / len(plan))
        x = padded([ids[i] for i in batch])
        hidden = (torch.rand(x.shape) < 0.06) & (x > 3)
        logits = model(embedded(x) * ~hidden[..., None], (x != 0).float())
        loss = nn.functional.binary_cross_entropy_with_logits(logits, wanted[batch], reduction="none").mean(1)
        loss = (loss * weights[batch]).sum() / weights[batch].sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        seen = loss.item() if step == 0 else 0.99 * seen + 0.01 * loss.item()
        if step % 200 == 0:
            print(f"{step}/{len(plan)} loss {seen:.4f} {time.time() - started:.0f} s", flush=True)
            torch.save(model.state_dict(), f"{out}.partial")
    torch.save(model.state_dict(), out)


def export(path: str) -> None:
    """Write `skim.onnx`, in 16 bits, which ONNX Runtime widens when it loads it."""
    model = Skim()
    model.load_state_dict(torch.load(path))
    example, file = torch.zeros(1, 12, WIDTH), Path(path).with_suffix(".onnx")
    torch.onnx.export(
        OfOne(model.eval()), (example,), str(file), input_names=["x"], output_names=["logits"],
        dynamic_axes={"x": {1: "tokens"}}, opset_version=17, dynamo=False,
    )  # fmt: skip
    write("skim.onnx", half(file.read_bytes()))


def main() -> None:
    """Cut, train, or export."""
    p = argparse.ArgumentParser()
    p.add_argument("do", choices=("cut", "train", "export"))
    p.add_argument("given", help="the set, what was cut of it, or the weights")
    p.add_argument("out", nargs="?")
    p.add_argument("--start", help="the weights to go on from")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--epochs", type=int, default=2)
    p.add_argument("--rate", type=float, default=2e-3)
    a = p.parse_args()
    torch.set_num_threads(1)
    if a.do == "export":
        export(a.given)
    elif a.out is None:
        p.error(f"{a.do} needs OUT")
    elif a.do == "cut":
        cut(a.given, a.out)
    else:
        train(a.given, a.out, a.start, a.seed, a.epochs, a.rate)


if __name__ == "__main__":
    main()
