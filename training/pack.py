"""Writes the sweep, `sweep.onnx`, and its vocabulary with the calibration of both stages, `sweep.npz`, to shieldkit/injection/data.

    python -m training.pack CALIBRATION.json [SWEEP.pt WORDS.pt]

Without a sweep the one that is there stays, with another calibration.
Embeddings are kept as int8 with a scale a column. Prints the digests for `detector.py`.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from shieldkit.injection.sweep import GAPS, NEAR
from training.sweep_model import Sweep, vocabulary

FOLDER = Path(__file__).parents[1] / "shieldkit" / "injection" / "data"


def arrays(path: str) -> dict[str, np.ndarray]:
    """The trained weights: embeddings as int8, everything else in 32 bits."""
    state = torch.load(path)
    model = Sweep(len(state["own.weight"]))
    model.load_state_dict(state)
    with torch.inference_mode():
        table = model.table().numpy()
    scale = (np.abs(table).max(axis=0) / 127).astype(np.float32)
    found = {"embeddings": np.round(table / scale).astype(np.int8), "embedding_scale": scale}
    for name, layer in [*((str(i), c) for i, c in enumerate(model.convolutions)), ("head", model.head)]:
        found[f"kernel_{name}"] = layer.weight.detach().numpy()[:, :, None]  # (out, in, 1, width)
        found[f"bias_{name}"] = layer.bias.detach().numpy()
    return found


def network(weights: dict[str, np.ndarray]) -> bytes:
    """The sweep as an ONNX model: rows of the table, (words,), to logits, (words, 2). Zeros stand beyond both ends, in every layer."""
    node = helper.make_node
    constants = {**weights, "ends": np.array([0, 2]), "half": np.float32(0.5)}
    nodes = [
        node("Cast", ["rows"], ["at"], to=TensorProto.INT32), node("Gather", ["embeddings", "at"], ["small"]),
        node("Cast", ["small"], ["rounded"], to=TensorProto.FLOAT), node("Mul", ["rounded", "embedding_scale"], ["words"]),
        node("Transpose", ["words"], ["channels"], perm=[1, 0]), node("Unsqueeze", ["channels", "ends"], ["x"]),
    ]  # fmt: skip
    for i, gap in enumerate(GAPS):
        given = f"relu_{i - 1}" if i else "x"
        nodes.append(
            node("Conv", [given, f"kernel_{i}", f"bias_{i}"], [f"y_{i}"], dilations=[1, gap], pads=[0, gap, 0, gap])
        )
        nodes.append(node("Relu", [f"y_{i}"], [f"relu_{i}"]))
    nodes += [
        node("Conv", [f"relu_{len(GAPS) - 1}", "kernel_head", "bias_head"], ["own"]),
        node("AveragePool", ["own"], ["around"], kernel_shape=[1, 2 * NEAR + 1], pads=[0, NEAR, 0, NEAR], count_include_pad=0),
        node("Add", ["own", "around"], ["both"]), node("Mul", ["both", "half"], ["steadied"]),
        node("Squeeze", ["steadied", "ends"], ["flat"]), node("Transpose", ["flat"], ["logits"], perm=[1, 0]),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "sweep",
        [helper.make_tensor_value_info("rows", TensorProto.UINT16, ["words"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["words", 2])],
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in sorted(constants.items())],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def half(model: bytes) -> bytes:
    """An ONNX model with its large weights in 16 bits, and casts to 32, which are done once, when it is loaded."""
    loaded = onnx.load_from_string(model)
    casts, weights = [], []
    for weight in loaded.graph.initializer:
        array = numpy_helper.to_array(weight)
        if array.dtype == np.float32 and array.size > 1000:
            casts.append(helper.make_node("Cast", [f"{weight.name}_half"], [weight.name], to=TensorProto.FLOAT))
            weights.append(numpy_helper.from_array(array.astype(np.float16), f"{weight.name}_half"))
        else:
            weights.append(weight)
    nodes = [*casts, *loaded.graph.node]
    del loaded.graph.initializer[:], loaded.graph.node[:]
    loaded.graph.initializer.extend(weights)
    loaded.graph.node.extend(nodes)
    onnx.checker.check_model(loaded)
    return bytes(loaded.SerializeToString(deterministic=True))


def archive(found: dict[str, np.ndarray]) -> bytes:
    """An archive whose bytes depend on its content alone."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in sorted(found.items()):
            data = io.BytesIO()
            np.lib.format.write_array(data, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(
                zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), data.getvalue(), zipfile.ZIP_DEFLATED
            )
    return out.getvalue()


def write(name: str, data: bytes) -> None:
    """Write a file of the package's data, and print its digest."""
    (FOLDER / name).write_bytes(data)
    print(name, len(data), "bytes, sha256", hashlib.sha256(data).hexdigest())


def main() -> None:
    """Pack."""
    rows = np.array(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["rows"], np.float64)
    if len(sys.argv) > 2:
        write("sweep.onnx", network(arrays(sys.argv[2])))
        _, hashes, _ = vocabulary(Path(sys.argv[3]))
    else:
        with np.load(FOLDER / "sweep.npz", allow_pickle=False) as file:
            hashes = file["vocabulary"]
    write("sweep.npz", archive({"vocabulary": hashes, "calibration": rows}))


if __name__ == "__main__":
    main()
