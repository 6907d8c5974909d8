"""A model as ONNX Runtime runs it: in the thread that asks, since texts and windows are read side by side (`parallel.py`).

Every processor gives the same answers. Without the precise kernels those that lack VNNI let sums of int8 products overflow, which
moves the encoder's logits by 0.2, and up to 0.7 (thirty texts of random pieces).
"""

from __future__ import annotations

from typing import Any

from shieldkit.errors import ModelFileError

SLOWER = ["SkipLayerNormFusion"]
"""What ONNX Runtime does to make a graph faster, and what makes the encoder slower (by a tenth; 1.32, AVX-512)."""
_FIELD = "guards.injection"


def session(name: str, model: bytes) -> Any:
    """The content of an ONNX file, `name`, ready to run. Raises `ModelFileError`."""
    try:
        import onnxruntime as runtime
    except ImportError:
        mend = "Install it: pip install onnxruntime tokenizers"
        raise ModelFileError(_FIELD, "the package onnxruntime is not installed", mend=mend) from None
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"], disabled_optimizers=SLOWER)
    except Exception as error:
        mend = "Install shieldkit anew"
        raise ModelFileError(_FIELD, f"{name} is no ONNX model ({type(error).__name__})", mend=mend) from None
