"""Fine-tunes six layers of multilingual-e5-small for the second stage.

    python -m training.encoder SET.jsonl OUT --fold K     trained without the sources of fold K (0: on everything; 4: without any fold's)

The base is made by `training.base` (Wang et al. 2024; MIT). For each question (direct, data)
it is read twice: after half of the layers, where most windows can be let go, and after all of them (early exit; Xin et al.
2020, "DeeBERT"). A reading is attention pooling beside mean pooling, and one linear layer.
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

from shieldkit.injection.pieces import unigram
from training.sources import trained_on

LAYERS, EXIT, WIDTH, HEADS, INNER, MOST = 6, 3, 384, 12, 1536, 160
KNOWS_BFLOAT16 = bool(torch.cpu.get_capabilities().get("avx512_bf16"))
"""Twice as fast where the processor knows it, and fifty times slower where it does not."""
PIECES = Path("shieldkit/injection/data/pieces.json")


def rounded(x: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """As int8 between two bounds, of which zero is to stay zero, will have it; the gradient passes as if nothing had been rounded
    (Jacob et al. 2018)."""
    step = ((high - low) / 255).clamp(min=1e-8)
    zero = torch.round(-low / step)
    return x + ((torch.clamp(torch.round(x / step) + zero, 0, 255) - zero) * step - x).detach()


class Linear(nn.Linear):
    """A layer that can be trained as it will be run: int8 inputs, scaled by text, and int8 weights, scaled by output."""

    as_int8 = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.as_int8:
            return super().forward(x)
        with torch.no_grad():
            low, high = x.amin((1, 2), keepdim=True).clamp(max=0), x.amax((1, 2), keepdim=True).clamp(min=0)
            step = (self.weight.abs().amax(1, keepdim=True) / 127).clamp(min=1e-8)
            off = torch.round(self.weight / step) * step - self.weight  # what ships has no zero point of its own
        return nn.functional.linear(rounded(x, low, high), self.weight + off, self.bias)


class Layer(nn.Module):
    """A BERT layer (post-norm)."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (Linear(WIDTH, WIDTH) for _ in range(4))
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, eps=1e-12), nn.LayerNorm(WIDTH, eps=1e-12)
        self.up, self.down = Linear(WIDTH, INNER), Linear(INNER, WIDTH)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        b, t, _ = x.shape
        q, k, v = (f(x).view(b, t, HEADS, -1).transpose(1, 2) for f in (self.query, self.key, self.value))
        a = torch.matmul(q, k.transpose(-1, -2)) / (WIDTH // HEADS) ** 0.5 + mask[:, None, None, :]
        a = torch.matmul(torch.softmax(a, -1), v).transpose(1, 2).reshape(b, t, WIDTH)
        x = self.norm1(x + self.drop(self.out(a)))
        return self.norm2(x + self.drop(self.down(nn.functional.gelu(self.up(x)))))


class Reading(nn.Module):
    """Hidden states (batch, tokens, width) to two logits (batch, 2): direct, data."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Linear(WIDTH, 2)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Parameter(torch.randn(2, 2 * WIDTH) * 0.02)
        self.bias = nn.Parameter(torch.zeros(2))

    def forward(self, x: torch.Tensor, alive: torch.Tensor) -> torch.Tensor:
        mean = (x * alive[..., None]).sum(1) / alive.sum(1, keepdim=True)
        look = torch.softmax(self.look(x) + (alive[..., None] - 1.0) * 1e4, 1)
        seen = torch.einsum("btd,bth->bhd", x, look)
        both = torch.cat([seen, mean[:, None].expand(-1, 2, -1)], -1)
        return (self.drop(both) * self.head).sum(-1) + self.bias


class Detector(nn.Module):
    """Token ids (batch, tokens; 0 is nothing) to logits after half of the layers, and after all: (batch, 2) each."""

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(pieces, WIDTH), nn.Embedding(512, WIDTH)
        self.kind = nn.Parameter(torch.zeros(WIDTH))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-12)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.early, self.late = Reading(), Reading()

    def lower(self, ids: torch.Tensor) -> torch.Tensor:
        """The hidden states after half of the layers."""
        x = self.norm(self.words(ids) + self.places.weight[None, : ids.shape[1]] + self.kind)
        return self._through(x, (ids != 0).float(), slice(EXIT))

    def upper(self, x: torch.Tensor, alive: torch.Tensor) -> torch.Tensor:
        """Their logits after the others."""
        return self.late(self._through(x, alive, slice(EXIT, None)), alive)

    def _through(self, x: torch.Tensor, alive: torch.Tensor, which: slice) -> torch.Tensor:
        for layer in self.layers[which]:
            x = layer(x, (alive - 1.0) * 1e4)
        return x

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, alive = self.lower(ids), (ids != 0).float()
        return self.early(x.detach(), alive), self.upper(
            x, alive
        )  # the early reading is not to bend what the late one needs


def trained(path: Path | str) -> Detector:
    """A trained detector, ready to be asked."""
    weights = torch.load(path)
    model = Detector(len(weights["words.weight"]))
    model.load_state_dict(weights)
    return model.eval()


def pieces(path: Path = PIECES):
    """The tokenizer that ships, or that of another list of pieces."""
    return unigram(json.loads(path.read_text(encoding="utf-8")))


def encode(tokenizer, texts: list[str]) -> list[list[int]]:
    """Ids, at most MOST of them, the last one [SEP]."""
    ids = [e.ids for e in tokenizer.encode_batch([t.encode("utf-8", "replace").decode() for t in texts])]
    return [i if len(i) <= MOST else [*i[: MOST - 1], i[-1]] for i in ids]


def padded(ids: list[list[int]]) -> torch.Tensor:
    """One tensor, zeros behind."""
    out = torch.zeros(len(ids), max(map(len, ids)), dtype=torch.long)
    for row, i in zip(out, ids, strict=True):
        row[: len(i)] = torch.tensor(i)
    return out


def batches(ids: list[list[int]], size_tokens: int, rng: random.Random):
    """Indices in batches of like length, shuffled."""
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]) + rng.random() * 4)
    found, batch = [], []
    for i in order:
        batch.append(i)
        if len(batch) * len(ids[i]) >= size_tokens or len(batch) == 64:
            found.append(batch)
            batch = []
    if batch:
        found.append(batch)
    rng.shuffle(found)
    return found


def main() -> None:
    """Train."""
    p = argparse.ArgumentParser()
    p.add_argument("set")
    p.add_argument("out")
    p.add_argument("--fold", type=int, default=0)
    p.add_argument("--examples", type=int, default=20000)
    p.add_argument("--epochs", type=int, default=1)
    p.add_argument("--start", required=True, help="the weights to go on from: at first those of training.base")
    p.add_argument("--rate", type=float, default=1.5e-4)
    p.add_argument("--words", action="store_true", help="train the word embeddings too: other scripts need it")
    p.add_argument("--seed", type=int, default=7)
    p.add_argument("--int8", action="store_true", help="train with the roundings of what ships: for the last run")
    p.add_argument("--minutes", type=float, default=60, help="stop in time, whatever is left; the rate falls with it")
    p.add_argument("--pieces", type=Path, default=PIECES)
    a = p.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed + a.fold)
    rng = random.Random(a.seed + a.fold)
    with Path(a.set).open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    if a.fold:
        rows = [r for r in rows if trained_on(r["folds"], a.fold)]
    # A draw by weight, attacks and ordinary text alike in number.
    pools = [[r for r in rows if (r["direct"] == 1 or r["data"] == 1) == side] for side in (True, False)]
    rows = []
    for pool in pools:
        keys = sorted(pool, key=lambda r: rng.random() ** (1 / max(r["weight"], 1e-3)), reverse=True)
        rows += keys[: a.examples // 2]
    tokenizer = pieces(a.pieces)
    ids = encode(tokenizer, [r["text"] for r in rows])
    labels = torch.tensor([[-1 if r[h] is None else r[h] for h in ("direct", "data")] for r in rows]).float()
    weights = torch.tensor([min(1.5, max(0.3, r["weight"])) for r in rows])
    model = trained(a.start)
    Linear.as_int8 = a.int8
    model.words.weight.requires_grad_(a.words)
    model.places.weight.requires_grad_(False)
    model.kind.requires_grad_(False)
    body = [q for n, q in model.named_parameters() if q.requires_grad and not n.startswith(("early", "late"))]
    top = [*model.early.parameters(), *model.late.parameters()]
    plan = [b for _ in range(a.epochs) for b in batches(ids, 1024, rng)]
    optimiser = torch.optim.AdamW(
        [{"params": body, "lr": a.rate}, {"params": top, "lr": a.rate * 10}], weight_decay=0.01, fused=True
    )
    base = [g["lr"] for g in optimiser.param_groups]
    started, seen = time.time(), 0.0
    model.train()
    print(f"fold {a.fold}: {len(rows)} examples, {len(plan)} steps", flush=True)
    for step, batch in enumerate(plan):
        done = max(step / len(plan), (time.time() - started) / (60 * a.minutes))
        if done >= 1:
            break
        scale = min(1.0, (step + 1) / 60) * max(0.02, 1 - done)
        for group, rate in zip(optimiser.param_groups, base, strict=True):
            group["lr"] = rate * scale
        x, y = padded([ids[i] for i in batch]), labels[batch]
        said = (y >= 0).float() * weights[batch][:, None]
        soft = y.clamp(0, 1) * 0.996 + 0.002
        with torch.autocast("cpu", torch.bfloat16, enabled=KNOWS_BFLOAT16):
            early, late = (logits.float() for logits in model(x))
        loss = sum(
            (nn.functional.binary_cross_entropy_with_logits(logits, soft, reduction="none") * said).sum()
            for logits in (early, late)
        ) / said.sum().clamp(min=1)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(body + top, 1.0)
        optimiser.step()
        seen = loss.item() if step == 0 else 0.98 * seen + 0.02 * loss.item()
        if step % 100 == 0:
            print(f"{step}/{len(plan)} loss {seen:.4f} {time.time() - started:.0f} s", flush=True)
            torch.save(model.state_dict(), a.out + ".partial")
    model.eval()
    torch.save(model.state_dict(), a.out)
    print("done", round(time.time() - started), "s", np.round(seen, 4), flush=True)


if __name__ == "__main__":
    main()
