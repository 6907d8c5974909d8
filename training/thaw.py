"""Takes the encoder that ships apart into weights that can be trained on.

    python -m training.thaw OUT.pt

The weights of the last run, in 32 bits, are not kept. What they were rounded to is: a run that goes on from it with `--int8` and a
low rate begins with the same answers.
"""

from __future__ import annotations

import sys

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from training.encoder import EXIT, LAYERS, WIDTH, Detector
from training.pack import FOLDER


def arrays(name: str) -> tuple[dict[str, np.ndarray], list[str]]:
    """The weights of a file, by name, and the names of its int8 products, in the order in which they are made."""
    graph = onnx.load(str(FOLDER / name)).graph
    products = [node.input[1].removesuffix("_quantized") for node in graph.node if node.op_type == "MatMulInteger"]
    return {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer}, products


def product(found: dict[str, np.ndarray], name: str) -> np.ndarray:
    """A product's weights as a linear layer has them: (out, in)."""
    rounded = found[f"{name}_quantized"].astype(np.float32) - found[f"{name}_zero_point"].astype(np.float32)
    return np.ascontiguousarray((rounded * found[f"{name}_scale"]).T)


def half(name: str, reading: str, first: int) -> dict[str, np.ndarray]:
    """The layers of a half, numbered from `first`, and its reading."""
    found, products = arrays(name)
    (look,) = (a for n, a in found.items() if a.shape == (WIDTH, 2) and n.startswith("onnx::MatMul"))
    state = {f"{reading}.{part}": found[f"{reading}.{part}"] for part in ("head", "bias", "look.bias")}
    state[f"{reading}.look.weight"] = np.ascontiguousarray(look.T)
    for layer in range(LAYERS - EXIT if first else EXIT):
        own, at = f"layers.{layer}", f"layers.{first + layer}"
        qkv, out, up, down = (product(found, n) for n in products[4 * layer : 4 * layer + 4])
        for k, part in enumerate(("query", "key", "value")):
            rows = slice(k * WIDTH, (k + 1) * WIDTH)
            state[f"{at}.{part}.weight"], state[f"{at}.{part}.bias"] = qkv[rows], found[f"{own}.qkv.bias"][rows]
        for part, weight in (("out", out), ("up", up), ("down", down)):
            state[f"{at}.{part}.weight"], state[f"{at}.{part}.bias"] = weight, found[f"{own}.layer.{part}.bias"]
        for norm in ("norm1", "norm2"):
            for part in ("weight", "bias"):
                state[f"{at}.{norm}.{part}"] = found[f"{own}.layer.{norm}.{part}"]
    return state


def main() -> None:
    """Take it apart."""
    words, _ = arrays("encoder_words.onnx")
    (places,) = (a for a in words.values() if a.shape == (1, 512, WIDTH))
    state = {
        "words.weight": words["words.rounded"].astype(np.float32) * words["words.scale"],
        "places.weight": places[0], "kind": np.zeros(WIDTH, np.float32),  # which the places hold already
        "norm.weight": words["norm.weight"], "norm.bias": words["norm.bias"],
        **half("encoder_lower.onnx", "early", 0), **half("encoder_upper.onnx", "late", EXIT),
    }  # fmt: skip
    weights = {name: torch.tensor(array) for name, array in state.items()}
    Detector(len(weights["words.weight"])).load_state_dict(weights)
    torch.save(weights, sys.argv[1])


if __name__ == "__main__":
    main()
