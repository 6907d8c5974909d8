"""Exports a trained encoder to ONNX with int8 weights, and says how far its logits are from the original's.

python -m training.export MODEL.pt OUT.onnx SET.jsonl
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic

from training.encoder import Detector, encode, padded, wordpiece


def load(path: str) -> Detector:
    """A trained detector, ready to be asked."""
    state = torch.load(path)
    model = Detector(1 + max(int(k.split(".")[1]) for k in state if k.startswith("layers.")))
    model.load_state_dict(state)
    return model.eval()


def main() -> None:
    """Export, quantise, compare."""
    torch.set_num_threads(1)
    model = load(sys.argv[1])
    out = Path(sys.argv[2])
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain.onnx"
        torch.onnx.export(
            model, (torch.ones(1, 12, dtype=torch.long),), str(plain), input_names=["ids"], output_names=["logits"],
            dynamic_axes={"ids": {1: "tokens"}}, opset_version=17, dynamo=False,
        )  # fmt: skip
        quantize_dynamic(
            plain, out, op_types_to_quantize=["MatMul", "Gather"], per_channel=True, weight_type=QuantType.QInt8
        )
        sessions = {}
        for name, path in (("fp32", plain), ("int8", out)):
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            sessions[name] = onnxruntime.InferenceSession(str(path), options)
    with Path(sys.argv[3]).open(encoding="utf-8") as lines:
        rows = [json.loads(line)["text"] for line in lines]
    rows = rows[:: max(1, len(rows) // 400)]
    ids = encode(wordpiece(Path("shieldkit/embedding/minilm_vocab.txt")), rows)
    with torch.inference_mode():
        want = np.concatenate([model(padded([i])).numpy() for i in ids])
    for name, session in sessions.items():
        got = np.concatenate([session.run(None, {"ids": np.array([i], np.int64)})[0] for i in ids])
        off = np.abs(got - want)
        print(
            f"{name} difference: median {np.median(off):.3f}, 99 % {np.quantile(off, 0.99):.3f}, most {off.max():.3f}"
        )
        for length in (32, 64, 112, 128):
            x = np.random.default_rng(0).integers(1000, 20000, (1, length))
            times = []
            for _ in range(40):
                start = time.perf_counter()
                session.run(None, {"ids": x})
                times.append(time.perf_counter() - start)
            print(f"   {length} tokens: {np.median(times) * 1000:.1f} ms")
    print(out.stat().st_size, "bytes, sha256", hashlib.sha256(out.read_bytes()).hexdigest())


if __name__ == "__main__":
    main()
