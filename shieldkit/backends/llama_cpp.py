"""llama.cpp in this process, through llama-cpp-python.

Text never becomes a control token: prompts are lists of pieces, and only the template's own pieces are tokenized with
special tokens on. A context is not safe for two threads, so calls take turns; waiting counts against the deadline.
The key-value cache is reused for the longest common prefix of *equal tokens*, which cannot carry text from one caller to
another.
"""

from __future__ import annotations

import codecs
import ctypes
import hashlib
import logging
import os
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from cachetools import LRUCache

from shieldkit.backends import reasoning
from shieldkit.backends.base import Completion, CompletionRequest, Piece, PromptCompletion
from shieldkit.backends.rendering import ChatTemplate
from shieldkit.conversation import Conversation
from shieldkit.errors import (
    BackendError,
    BackendTimeout,
    ConfigurationError,
    ContextExceeded,
    MissingExtra,
    ModelFileError,
)

DEFAULT_CONTEXT_TOKENS = 32_768
MOST_CHARS_A_TOKEN = 8
_CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{{ '<|im_start|>assistant\n' }}"
)


class LlamaCpp:
    """A GGUF model. A `Backend` and a `PromptBackend`.

    `path`: the file. `context_tokens`: open it with this much context; by default a `Shield` opens it with its policy's
    cap (32,768), and never with more than the model was trained for. `gpu_layers`: -1 offloads all layers where the build
    can. `threads`: CPU threads for computing. `sha256`: the digest that the file must have. `chat_template`: in place of
    the file's own. `model`: its name, for `model.allow` and records; by default the file's own. Raises `ModelFileError` and
    `ConfigurationError`.
    """

    name = "llama.cpp"
    named_by = "LlamaCpp(model=…)"
    local = True

    def __init__(
        self,
        path: str | Path,
        *,
        context_tokens: int | None = None,
        gpu_layers: int = -1,
        threads: int | None = None,
        sha256: str | None = None,
        chat_template: str | None = None,
        model: str | None = None,
    ) -> None:
        self.path = Path(path)
        self._wanted_tokens = context_tokens
        self._gpu_layers = gpu_layers
        self._threads = threads or max(1, (os.cpu_count() or 2) // 2)
        self._template_source = chat_template
        self._model_name = model
        self.sha256 = _verified(self.path, sha256) if sha256 else None
        if not self.path.is_file():
            raise ModelFileError(
                "LlamaCpp.path", f"{self.path.name} is not a file", mend="Give the path of a GGUF file"
            )
        self._lock = threading.Lock()
        self._cache_lock = threading.Lock()
        self._users = 0
        self._idle = threading.Condition()
        self._closed = False
        self._llama: Any = None
        self._abort: Any = None
        self._expired: Any = None
        self._tokens: LRUCache[tuple[str, bool], list[int]] = LRUCache(512)
        self._prompts: LRUCache[Conversation, tuple[list[int], bool]] = LRUCache(8)
        self._notes: dict[str, Any] = {}

    # -- opening ----------------------------------------------------------------------------------------------------

    def open(self, max_context_tokens: int = DEFAULT_CONTEXT_TOKENS) -> None:
        """Load the model with at most this much context. A second time does nothing."""
        with self._lock:
            if self._llama is None:
                self._load(max_context_tokens)

    def _load(self, most: int) -> None:
        try:
            import llama_cpp
        except ImportError as error:
            raise MissingExtra("llama-cpp-python", "llama", name=error.name) from None
        llama_cpp.llama_log_set(_to_logger(llama_cpp), ctypes.c_void_p(0))
        trained = _trained_context(llama_cpp, self.path)
        wanted = min(self._wanted_tokens or most, most)
        if self._wanted_tokens is not None and self._wanted_tokens > trained:
            problem = f"{self._wanted_tokens} is more than the {trained} tokens that the model was trained for"
            raise ConfigurationError("LlamaCpp.context_tokens", problem, mend=f"Set it to {trained} or less")
        try:
            llama = llama_cpp.Llama(
                str(self.path), n_ctx=min(wanted, trained), n_gpu_layers=self._gpu_layers, n_threads=self._threads,
                n_threads_batch=self._threads, seed=0, verbose=False,
            )  # fmt: skip
        except (ValueError, OSError, RuntimeError) as error:
            problem = f"{self.path.name} cannot be loaded ({type(error).__name__})"
            raise ModelFileError("LlamaCpp.path", problem, mend="Give a GGUF file that this llama.cpp knows") from None
        self._abort = llama_cpp.llama_cpp.ggml_abort_callback(lambda _: bool(self._expired and self._expired()))
        llama_cpp.llama_set_abort_callback(llama.ctx, self._abort, ctypes.c_void_p(0))
        self._api, self._llama, self._trained = llama_cpp, llama, trained
        self._vocab = llama_cpp.llama_model_get_vocab(llama.model)
        source = self._template_source or llama.metadata.get("tokenizer.chat_template") or _CHATML
        self._template = ChatTemplate(source, self._spelled(llama.token_bos()), self._spelled(llama.token_eos()))
        self._control_set = frozenset(self._control_ids())
        self._control = frozenset(filter(None, (self._spelled(t) for t in self._control_set)))
        self._thinks = reasoning.thinks(source, self._control)

    @property
    def _loaded(self) -> Any:
        if self._closed:
            raise BackendError("the model was closed")
        if self._llama is None:
            self.open()
        return self._llama

    @contextmanager
    def _used(self) -> Iterator[None]:
        """While this is open, `close` waits: the model's memory is not freed under a thread that reads it."""
        with self._idle:
            if self._closed:
                raise BackendError("the model was closed")
            self._users += 1
        try:
            yield
        finally:
            with self._idle:
                self._users -= 1
                self._idle.notify_all()

    # -- what it is -------------------------------------------------------------------------------------------------

    @property
    def model(self) -> str:
        """The name that the file gives itself, or the file's name."""
        own = self._loaded.metadata.get("general.name") if self._model_name is None else self._model_name
        return str(own or self.path.stem)

    @property
    def context_tokens(self) -> int:
        """The context that was opened, in tokens."""
        return int(self._loaded.n_ctx())

    @property
    def control_tokens(self) -> frozenset[str]:
        """The texts of all control tokens of the vocabulary."""
        _ = self._loaded
        return self._control

    @property
    def control_ids(self) -> frozenset[int]:
        """The ids of all control tokens of the vocabulary."""
        _ = self._loaded
        return self._control_set

    @property
    def chat_template(self) -> str | None:
        """The Jinja template that the file carries, if any."""
        found = self._loaded.metadata.get("tokenizer.chat_template")
        return str(found) if found else None

    def describe(self) -> Mapping[str, Any]:
        """What is used to answer."""
        llama = self._loaded
        offload = bool(self._api.llama_supports_gpu_offload())
        layers = int(self._api.llama_model_n_layer(llama.model))
        return {
            "name": self.name, "model": self.model, "file": self.path.name, "sha256": self.sha256,
            "context_tokens": self.context_tokens, "trained_context_tokens": self._trained,
            "gpu_offload": offload,
            "gpu_layers": min(self._gpu_layers % (layers + 2), layers + 1) if offload else 0,
            "threads": self._threads, "llama_cpp_python": self._api.__version__, **self._notes,
        }  # fmt: skip

    def close(self) -> None:
        """Free the model, when no thread uses it any more. It cannot be opened again."""
        with self._idle:
            self._closed = True
            while self._users:
                self._idle.wait()
        with self._lock:
            if self._llama is not None:
                self._llama.close()
                self._llama = None
            self._prompts.clear()
            self._tokens.clear()

    # -- tokens -----------------------------------------------------------------------------------------------------

    def prompt_ids(self, conversation: Conversation) -> list[int]:
        """The ids that `complete` sends: the template's with control tokens, every segment's without."""
        return list(self._prompt(conversation)[0])

    def _prompt(self, conversation: Conversation) -> tuple[list[int], bool]:
        """The ids, and whether the template has begun the model's reasoning."""
        _ = self._loaded
        with self._cache_lock:
            found = self._prompts.get(conversation)
        if found is None:
            pieces = self._template.render(conversation)
            found = self._ids(pieces), reasoning.opened(pieces)
            with self._cache_lock:
                self._prompts[conversation] = found
        return found

    def count_tokens(self, conversation: Conversation, limit: int | None = None) -> int:
        """The exact number of tokens that will be sent; or, far above `limit`, some number above it."""
        if limit is not None:
            longest = max((s.text for s in conversation.segments), key=len, default="")
            if len(longest) > MOST_CHARS_A_TOKEN * limit:
                _ = self._loaded
                enough = len(self._ids([Piece(longest[: MOST_CHARS_A_TOKEN * limit])])) - 1
                if enough > limit:
                    return enough
        return len(self.prompt_ids(conversation))

    def count_pieces(self, pieces: Sequence[Piece]) -> int:
        """The tokens of a raw prompt."""
        _ = self._loaded
        return len(self._ids(pieces))

    def first_tokens(self, words: Sequence[str]) -> Mapping[str, str]:
        """For each word, the text of the first token that it begins with."""
        llama = self._loaded
        return {word: self._spelled(llama.tokenize(word.encode(), add_bos=False)[0]) for word in words}

    def _ids(self, pieces: Sequence[Piece]) -> list[int]:
        ids: list[int] = []
        for piece in pieces:
            ids += self._piece_ids(piece)
        if self._api.llama_vocab_get_add_bos(self._vocab) and ids[:1] != [self._llama.token_bos()]:
            ids.insert(0, self._llama.token_bos())
        return ids

    def _piece_ids(self, piece: Piece) -> list[int]:
        """Tokenize one piece. Reading the vocabulary is safe from any thread, also while another one generates."""
        key = (piece.text, piece.control)
        with self._cache_lock:
            found = self._tokens.get(key)
        if found is None:
            data = piece.text.encode("utf-8", "replace")
            with self._used():
                found = self._llama.tokenize(data, add_bos=False, special=piece.control)
            if len(data) < 4096:
                with self._cache_lock:
                    self._tokens[key] = found
        return list(found)

    def _control_ids(self) -> Iterator[int]:
        api = self._api
        wanted = api.LLAMA_TOKEN_ATTR_CONTROL | api.LLAMA_TOKEN_ATTR_USER_DEFINED
        for token in range(self._llama.n_vocab()):
            if api.llama_vocab_get_attr(self._vocab, token) & wanted or api.llama_vocab_is_eog(self._vocab, token):
                yield token

    def _spelled(self, token: int) -> str:
        if token < 0:
            return ""
        text: bytes = self._llama.detokenize([token], special=True) or self._api.llama_vocab_get_text(
            self._vocab, token
        )
        return text.decode("utf-8", "replace")

    # -- answering --------------------------------------------------------------------------------------------------

    def complete(self, request: CompletionRequest) -> Completion:
        """Answer. Control tokens that the model writes stay visible in the text, so that guards can see them."""
        for answer in self.stream(request):
            if isinstance(answer, Completion):
                return answer
        raise BackendError("the answer has no end")

    def stream(self, request: CompletionRequest) -> Iterator[str | Completion]:
        """`complete`, bit by bit. The model is this answer's until it ends or the iterator is closed: do not linger.

        Reasoning is in the completion alone. Under a grammar there is none: the model cannot write its marks.
        """
        ids, opened = self._prompt(request.conversation)
        grammar = self._grammar(request.schema)
        thoughts = reasoning.Thoughts(opened) if self._thinks and grammar is None else None
        bits: list[str] = []
        request.progress.input_tokens = request.progress.output_tokens = 0  # while it waits for its turn
        with self._turn(request.deadline, request.expired):
            self._fits(len(ids), request.max_output_tokens)
            answer = self._generate(ids, request, grammar)
            while True:
                try:
                    bit = next(answer)
                except StopIteration as end:
                    written, reason = end.value
                    break
                if new := thoughts.after(bit) if thoughts is not None else bit:
                    bits.append(new)
                    yield new
            if thoughts is not None and (new := thoughts.rest()):
                bits.append(new)
                yield new
        if request.cancelled.is_set():
            raise BackendError("the caller is gone")
        text = "".join(bits)
        message = thoughts.message(text) if thoughts is not None else {"role": "assistant", "content": text}
        yield Completion(message, len(ids), written, reason, self.model)

    def _generate(
        self, ids: list[int], request: CompletionRequest, grammar: Any
    ) -> Generator[str, None, tuple[int, str]]:
        """Bits of text, none of them empty, and no character in two; at last the number of tokens, and why it ended."""
        llama, last, written, reason = self._llama, ids[-1:], 0, "length"
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        ends = _Ends(request.stop)
        if request.seed is not None:
            llama.set_seed(request.seed)
        request.progress.input_tokens = len(ids)
        for token in llama.generate(ids, temp=request.temperature, grammar=grammar):
            if self._api.llama_vocab_is_eog(self._vocab, token):
                reason = "stop"
                break
            request.progress.output_tokens = written = written + 1
            if bit := ends.before(decode(llama.detokenize([token], prev_tokens=last, special=True))):
                yield bit
            last = [token]
            if ends.reached:
                reason = "stop"
                break
            if written >= request.max_output_tokens:
                break
            if request.expired():
                raise BackendTimeout("no answer within the deadline")
        if bit := ends.before(decode(b"", True)) + ends.rest():
            yield bit
        return written, reason

    def complete_pieces(
        self, pieces: Sequence[Piece], *, max_output_tokens: int, top_logprobs: int = 20, timeout_s: float = 60.0
    ) -> PromptCompletion:
        """Continue a raw prompt greedily, with the log-probabilities of the likeliest first tokens."""
        import numpy as np

        deadline = time.monotonic() + timeout_s
        request = CompletionRequest(_NO_ONE, max_output_tokens, deadline=deadline)
        _ = self._loaded
        with self._turn(deadline, request.expired):
            ids = self._ids(pieces)
            self._fits(len(ids), max_output_tokens)
            llama = self._llama
            llama.reset()
            llama.eval(ids)
            pointer = self._api.llama_get_logits_ith(llama.ctx, -1)
            logits = np.ctypeslib.as_array(pointer, shape=(llama.n_vocab(),)).astype(np.float64)
            logits -= logits.max()
            logprobs = logits - np.log(np.exp(logits).sum())
            best = np.argsort(-logprobs)[:top_logprobs]
            first = {self._spelled(int(t)): float(logprobs[t]) for t in reversed(best)}
            text = "".join(self._generate(ids, request, None))
        return PromptCompletion(text, first, len(ids), request.progress.output_tokens or 0)

    def _fits(self, prompt: int, answer: int) -> None:
        if prompt + answer > self._llama.n_ctx():
            raise ContextExceeded(f"{prompt} tokens and {answer} for the answer do not fit {self._llama.n_ctx()}")

    @contextmanager
    def _turn(self, deadline: float, expired: Any) -> Iterator[None]:
        """Wait for the model, within the deadline, and leave it clean after an error."""
        _ = self._loaded
        wait_s = min(deadline - time.monotonic(), threading.TIMEOUT_MAX)
        if wait_s <= 0 or not self._lock.acquire(timeout=wait_s):
            raise BackendTimeout("the model was busy until the deadline")
        try:
            self._expired = expired
            with self._used():
                yield
        except BaseException as error:
            self._llama.reset()
            self._llama._ctx.kv_cache_clear()
            if isinstance(error, RuntimeError) and expired():
                raise BackendTimeout("no answer within the deadline") from None
            if isinstance(error, BackendError) or not isinstance(error, Exception):
                raise
            raise BackendError(f"llama.cpp failed ({type(error).__name__})") from None
        finally:
            self._expired = None
            self._lock.release()

    def _grammar(self, schema: Mapping[str, Any] | None) -> Any:
        """The schema as a grammar; None where llama.cpp cannot take it: the schema gate checks the answer all the same."""
        if schema is None:
            return None
        import json

        _ = self._loaded
        try:
            return self._api.llama_grammar.LlamaGrammar.from_json_schema(json.dumps(schema), verbose=False)
        except Exception as error:
            self._notes["constrained_decoding"] = f"not used: {type(error).__name__}"
            return None


_NO_ONE = Conversation((), ())


class _Ends:
    """Stop strings in a text that comes in bits. What could be the beginning of one is held back."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._longest = max(map(len, self._stop), default=0)
        self._held, self.reached = "", False

    def before(self, bit: str) -> str:
        """What of the text so far, not given out yet, surely stands before any stop string."""
        if self.reached or not self._stop:
            return "" if self.reached else bit
        text, self._held = self._held + bit, ""
        places = [at for s in self._stop if (at := text.find(s)) >= 0]
        if places:
            self.reached = True
            return text[: min(places)]
        tails = range(min(self._longest - 1, len(text)), 0, -1)
        keep = next((n for n in tails if any(s.startswith(text[-n:]) for s in self._stop)), 0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def rest(self) -> str:
        """What was held when the text ended: it became no stop string."""
        held, self._held = self._held, ""
        return held


@lru_cache(maxsize=1)
def _to_logger(llama_cpp: Any) -> Any:
    """llama.cpp's own log lines go to the standard logger `shieldkit.llama_cpp`, at DEBUG, and not to stderr."""
    log = logging.getLogger("shieldkit.llama_cpp")
    return llama_cpp.llama_log_callback(lambda level, text, _: log.debug("%s", text.decode("utf-8", "replace").strip()))


def _trained_context(llama_cpp: Any, path: Path) -> int:
    """The context that the model was trained for, from the file's header, without loading its weights."""
    try:
        probe = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    except (ValueError, OSError, RuntimeError) as error:
        problem = f"{path.name} cannot be read ({type(error).__name__})"
        raise ModelFileError("LlamaCpp.path", problem, mend="Give a GGUF file that this llama.cpp knows") from None
    metadata = probe.metadata
    probe.close()
    architecture = metadata.get("general.architecture", "")
    try:
        return int(metadata[f"{architecture}.context_length"])
    except (KeyError, ValueError):
        problem = f"{path.name} does not tell its context length"
        raise ModelFileError(
            "LlamaCpp.path", problem, mend="Convert the model again with a current llama.cpp"
        ) from None


def _verified(path: Path, expected: str) -> str:
    """The file's digest, if it is the expected one."""
    try:
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelFileError(
            "LlamaCpp.path", f"{path.name} cannot be read ({error.strerror})", mend="Check it"
        ) from None
    if actual != expected.lower():
        problem = f"the digest of {path.name} is {actual}, not the one that was given"
        raise ModelFileError(
            "LlamaCpp.sha256", problem, mend="Get the file again from its publisher, or mend the digest"
        )
    return actual
