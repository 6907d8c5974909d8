"""Sentence embeddings on the CPU, from a model file whose digest was checked.

`SentenceEmbedder.builtin()` is all-MiniLM-L6-v2 as int8 ONNX; `SentenceEmbedder.from_folder()` any model of that shape.
`NearestExamples` tells texts like given examples from all others.
"""

from shieldkit.embedding.model import DIGEST_OF_BUILTIN, SentenceEmbedder
from shieldkit.embedding.nearest import NearestExamples

__all__ = ["DIGEST_OF_BUILTIN", "NearestExamples", "SentenceEmbedder"]
