"""Writes the sweep's weights and the calibration of both stages to shieldkit/injection/data/sweep.npz.

    python -m training.pack SWEEP.pt WORDS.pt CALIBRATION.json

Embeddings are kept as int8 with a scale a column, kernels as float16. Prints the digest for `detector.py`.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch

from training.sweep_model import GAPS, Sweep, vocabulary

OUT = Path(__file__).parents[1] / "shieldkit" / "injection" / "data" / "sweep.npz"


def arrays(path: str, words: str) -> dict[str, np.ndarray]:
    """What `shieldkit.injection.sweep.Sweep.of` reads."""
    state = torch.load(path)
    model = Sweep(len(state["own.weight"]))
    model.load_state_dict(state)
    with torch.inference_mode():
        table = model.table().numpy()
    scale = np.abs(table).max(axis=0) / 127
    _, hashes, _ = vocabulary(Path(words))
    found = {
        "vocabulary": hashes,
        "embeddings": np.round(table / scale).astype(np.int8),
        "embedding_scale": scale.astype(np.float32),
        "head": model.head.weight.detach().numpy()[:, :, 0].T.astype(np.float16),
        "head_bias": model.head.bias.detach().numpy().astype(np.float32),
    }
    for i in range(len(GAPS)):
        layer = model.convolutions[i]
        found[f"kernel{i}"] = layer.weight.detach().numpy().transpose(2, 1, 0).astype(np.float16)
        found[f"bias{i}"] = layer.bias.detach().numpy().astype(np.float32)
    return found


def write(found: dict[str, np.ndarray], out: Path = OUT) -> str:
    """An archive whose bytes depend on its content alone; returns its SHA-256."""
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in sorted(found.items()):
            data = io.BytesIO()
            np.lib.format.write_array(data, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(
                zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), data.getvalue(), zipfile.ZIP_DEFLATED
            )
    return hashlib.sha256(out.read_bytes()).hexdigest()


def main() -> None:
    """Pack."""
    found = arrays(sys.argv[1], sys.argv[2])
    rows = json.loads(Path(sys.argv[3]).read_text(encoding="utf-8"))["rows"]
    found["calibration"] = np.array(rows, np.float64)
    print(write(found), OUT.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
