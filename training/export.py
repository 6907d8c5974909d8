"""Exports a trained encoder, its embeddings and its halves, to ONNX with int8 weights, and says how far its logits are from the original's.

python -m training.export MODEL.pt OUT_FOLDER SET.jsonl
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic

from shieldkit.injection.session import session as as_shipped
from training.encoder import EXIT, HEADS, WIDTH, Detector, Layer, Linear, Reading, encode, padded, pieces, trained


class Words(torch.nn.Module):
    """An embedding as int8, with a scale for each word: one for all would be that of the largest."""

    def __init__(self, words: torch.nn.Embedding) -> None:
        super().__init__()
        weight = words.weight.detach()
        scale = (weight.abs().amax(1, keepdim=True) / 127).clamp(min=1e-8)
        self.register_buffer("scale", scale)
        self.register_buffer("rounded", torch.round(weight / scale).to(torch.int8))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.rounded[ids].float() * self.scale[ids]


class Together(torch.nn.Module):
    """A layer for one text: query, key and value are one product, and there is nothing to mask."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        parts = (layer.query, layer.key, layer.value)
        self.qkv = torch.nn.Linear(WIDTH, 3 * WIDTH)
        self.qkv.weight.data = torch.cat([part.weight for part in parts]).detach()
        self.qkv.bias.data = torch.cat([part.bias for part in parts]).detach()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, _ = x.shape
        q, k, v = (part.view(b, t, HEADS, -1).transpose(1, 2) for part in self.qkv(x).split(WIDTH, -1))
        a = torch.softmax(torch.matmul(q, k.transpose(-1, -2)) / (WIDTH // HEADS) ** 0.5, -1)
        own = self.layer
        x = own.norm1(x + own.out(torch.matmul(a, v).transpose(1, 2).reshape(b, t, WIDTH)))
        return own.norm2(x + own.down(torch.nn.functional.gelu(own.up(x))))


def read(reading: Reading, x: torch.Tensor) -> torch.Tensor:
    """The logits of a reading, of one text."""
    look = torch.softmax(reading.look(x), 1).transpose(1, 2)
    both = torch.cat([torch.matmul(look, x), x.mean(1, keepdim=True).expand(-1, 2, -1)], -1)
    return (both * reading.head).sum(-1) + reading.bias


class Embedded(torch.nn.Module):
    """Ids (1, tokens) to what the first layer reads: (1, tokens, width)."""

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.words, self.norm = Words(model.words), model.norm
        self.register_buffer("places", (model.places.weight + model.kind).detach())

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.norm(self.words(ids) + self.places[None, : ids.shape[1]])


class Lower(torch.nn.Module):
    """That to hidden states and early logits."""

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.early = model.early
        self.layers = torch.nn.Sequential(*map(Together, model.layers[:EXIT]))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.layers(x)
        return x, read(self.early, x)


class Upper(torch.nn.Module):
    """Hidden states (1, tokens, width) to logits."""

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.layers, self.late = torch.nn.Sequential(*map(Together, model.layers[EXIT:])), model.late

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return read(self.late, self.layers(hidden))


def written(half: torch.nn.Module, example: torch.Tensor, given: str, found: list[str], out: Path) -> None:
    """Export a half to ONNX, with int8 weights."""
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain.onnx"
        torch.onnx.export(
            half, (example,), str(plain), input_names=[given], output_names=found,
            dynamic_axes={name: {1: "tokens"} for name in (given, *found) if name != "logits"}, opset_version=17, dynamo=False,
        )  # fmt: skip
        # Where to look is a matter of few weights and small differences: that stays as it is.
        graph = onnx.load(str(plain)).graph
        given_weights = {weight.name for weight in graph.initializer}
        looks = [
            node.name for node in graph.node if "/look/" in node.name or not given_weights.intersection(node.input)
        ]
        quantize_dynamic(
            plain,
            out,
            nodes_to_exclude=looks,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=QuantType.QInt8,
        )


def session(path: Path) -> onnxruntime.InferenceSession:
    """As what ships runs it."""
    return as_shipped(path.name, path.read_bytes())


def main() -> None:
    """Export, quantise, compare."""
    torch.set_num_threads(1)
    model, folder = trained(sys.argv[1]), Path(sys.argv[2])
    ids = torch.arange(1000, 1012)[None]
    embedded = Embedded(model)
    written(embedded, ids, "ids", ["x"], folder / "encoder_words.onnx")
    written(Lower(model), embedded(ids).detach(), "x", ["hidden", "logits"], folder / "encoder_lower.onnx")
    written(Upper(model), model.lower(ids).detach(), "hidden", ["logits"], folder / "encoder_upper.onnx")
    names = ("words", "lower", "upper")
    words, lower, upper = (session(folder / f"encoder_{name}.onnx") for name in names)
    with Path(sys.argv[3]).open(encoding="utf-8") as lines:
        rows = [json.loads(line)["text"] for line in lines]
    texts = encode(pieces(), rows[:: max(1, len(rows) // 400)])
    off: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    model.eval()  # which exporting has undone
    Linear.as_int8 = True  # as it was trained, in the last run
    with torch.inference_mode():
        for text in texts:
            (x,) = words.run(None, {"ids": np.array([text], np.int64)})
            hidden, early = lower.run(None, {"x": x})
            late = upper.run(None, {"hidden": hidden})[0]
            for found, got, want in zip(off, (early, late), model(padded([text])), strict=True):
                found.append(np.abs(got - want.numpy()))
    for name, found in zip(("early", "late"), off, strict=True):
        each = np.concatenate(found)
        print(
            f"{name}: int8 off by {np.median(each):.3f} median, {np.quantile(each, 0.99):.3f} 99 %, {each.max():.3f} most"
        )
    for length in (32, 64, 112, 128):
        (x,) = words.run(None, {"ids": np.random.default_rng(0).integers(1000, 20000, (1, length))})
        for name, half, given in (
            ("lower", lower, {"x": x}),
            ("upper", upper, {"hidden": lower.run(None, {"x": x})[0]}),
        ):
            times = []
            for _ in range(40):
                start = time.perf_counter()
                half.run(None, given)
                times.append(time.perf_counter() - start)
            print(f"   {name}, {length} tokens: {np.median(times) * 1000:.1f} ms")
    for path in sorted(folder.glob("encoder_*.onnx")):
        print(path.name, path.stat().st_size, "bytes, sha256", hashlib.sha256(path.read_bytes()).hexdigest())


if __name__ == "__main__":
    main()
