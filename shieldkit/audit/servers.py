"""The command lines of model servers: which options there are, what they are called, and what holds when they are unset.

Sources, by server: vLLM `vllm serve --help` and docs/usage/security.md (0.32); llama.cpp tools/server/README.md; TGI
docs/source/reference/launcher.md; SGLang docs/advanced_features/server_arguments.md; Ollama docs/faq.md and
envconfig/config.go; llama-cpp-python `llama_cpp/server/settings.py` (0.3.36).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

ANY = "0.0.0.0"  # noqa: S104 - what is looked for, not listened on
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Server:
    """A kind of model server. Options are told by their long names, without dashes in front."""

    name: str
    title: str
    host: str
    """Where it listens when nothing is said."""
    context: tuple[str, ...]
    """The options that cap the context, the first being the one to set."""
    modules: tuple[str, ...] = ()
    """`python -m …`."""
    programs: tuple[tuple[str, ...], ...] = ()
    """The words it is started by."""
    images: tuple[str, ...] = ()
    """Beginnings or ends of the names of its images, without registry and tag."""
    short: Mapping[str, str] = field(default_factory=dict)
    """Other names of options."""
    flags: frozenset[str] = frozenset()
    """Options without a value."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that stand for an option."""
    prefix: str = ""
    """Variables of this prefix stand for the option that follows it."""
    image_host: str = ANY
    """Where its image listens."""
    positional: str = ""
    """The option that the first bare word stands for."""
    start: tuple[str, ...] = ()
    """What its image's entry point already says, and a container's arguments follow."""
    keys: tuple[str, ...] = ("api-key",)
    """The options that ask clients for a key."""
    tls: str = ""
    """The option that names a certificate."""
    docs: str = ""


_VLLM = "https://docs.vllm.ai/en/latest/cli/serve/"
_LLAMA = "https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md"
_TGI = "https://huggingface.co/docs/text-generation-inference/reference/launcher"
_SGLANG = "https://docs.sglang.io/advanced_features/server_arguments.html"
_OLLAMA = "https://docs.ollama.com/faq"

VLLM = Server(
    "vllm", "vLLM", ANY, ("max-model-len",),
    modules=("vllm.entrypoints.openai.api_server", "vllm.entrypoints.api_server"),
    programs=(("vllm", "serve"),),
    images=("vllm/vllm-openai", "vllm-openai", "vllm/vllm-cpu", "vllm-cpu-release-repo", "rocm/vllm"),
    short={"model-tag": "model", "tp": "tensor-parallel-size", "O": "compilation-config"},
    flags=frozenset({
        "trust-remote-code", "enable-log-requests", "disable-log-requests", "enable-log-outputs", "allow-credentials",
        "disable-fastapi-docs", "enable-auto-tool-choice", "trust-request-chat-template", "enable-lora", "headless",
        "enforce-eager", "enable-prefix-caching", "enable-chunked-prefill", "disable-log-stats", "tokens-only",
        "enable-tokenizer-info-endpoint", "enable-server-load-tracking", "enable-expert-parallel", "async-scheduling",
        "enable-request-id-headers", "disable-uvicorn-access-log", "return-tokens-as-token-ids", "enable-ssl-refresh",
        "enable-prompt-embeds", "skip-tokenizer-init", "log-error-stack", "enable-reasoning", "enable-sleep-mode",
    }),
    environment={
        "VLLM_API_KEY": "api-key", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "runtime-lora-updating",
        "VLLM_SERVER_DEV_MODE": "server-dev-mode", "VLLM_ALLOW_INSECURE_SERIALIZATION": "insecure-serialization",
        "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "allow-long-max-model-len", "VLLM_NO_USAGE_STATS": "no-usage-stats",
        "DO_NOT_TRACK": "no-usage-stats", "VLLM_DO_NOT_TRACK": "no-usage-stats",
        "VLLM_LOGGING_LEVEL": "logging-level", "HF_TOKEN": "hf-token", "HUGGING_FACE_HUB_TOKEN": "hf-token",
        "VLLM_DEBUG_LOG_API_SERVER_RESPONSE": "enable-log-outputs",
    },
    positional="model", tls="ssl-certfile", docs=_VLLM,
)  # fmt: skip

LLAMA_SERVER = Server(
    "llama-server", "llama-server", LOOPBACK, ("ctx-size",),
    programs=(("llama-server",), ("llama-server.exe",)),
    images=("ggml-org/llama.cpp", "ggerganov/llama.cpp"),
    short={
        "c": "ctx-size", "m": "model", "mu": "model-url", "hf": "hf-repo", "hfr": "hf-repo", "hft": "hf-token",
        "np": "parallel", "a": "alias", "v": "verbose", "log-verbose": "verbose", "lv": "verbosity",
        "log-verbosity": "verbosity", "n": "predict", "n-predict": "predict", "sp": "special", "ag": "agent",
        "kvu": "kv-unified", "ngl": "gpu-layers", "n-gpu-layers": "gpu-layers", "t": "threads", "b": "batch-size",
        "fa": "flash-attn", "hff": "hf-file", "cb": "cont-batching", "to": "timeout", "ub": "ubatch-size",
        "webui": "ui", "webui-mcp-proxy": "ui-mcp-proxy", "tb": "threads-batch", "dr": "docker-repo",
    },
    flags=frozenset({
        "verbose", "special", "agent", "kv-unified", "metrics", "props", "slots", "jinja", "context-shift", "ui",
        "ui-mcp-proxy", "embedding", "embeddings", "rerank", "reranking", "cont-batching", "offline", "mlock", "mmap",
        "log-disable", "warmup", "cors-credentials", "cache-prompt", "swa-full", "verbose-prompt", "escape", "models-autoload",
    }),
    environment={
        "LLAMA_API_KEY": "api-key", "HF_TOKEN": "hf-token", "LLAMA_ARG_N_PARALLEL": "parallel",
        "LLAMA_ARG_ENDPOINT_METRICS": "metrics", "LLAMA_ARG_ENDPOINT_PROPS": "props",
        "LLAMA_ARG_ENDPOINT_SLOTS": "slots", "LLAMA_ARG_LOG_VERBOSITY": "verbosity",
    },
    prefix="LLAMA_ARG_", keys=("api-key", "api-key-file"), tls="ssl-cert-file", docs=_LLAMA,
)  # fmt: skip

LLAMA_CPP_PYTHON = Server(
    "llama-cpp-python", "llama-cpp-python", "localhost", ("n-ctx",), modules=("llama_cpp.server",),
    images=("abetlen/llama-cpp-python",),
    environment={"HF_TOKEN": "hf-token", "HOST": "host", "API_KEY": "api-key", "N_CTX": "n-ctx", "MODEL": "model"},
    short={"model-alias": "alias"}, tls="ssl-certfile",
    docs="https://llama-cpp-python.readthedocs.io/en/latest/server/",
)  # fmt: skip

TGI = Server(
    "tgi", "TGI", ANY, ("max-total-tokens", "max-input-tokens", "max-input-length"),
    programs=(("text-generation-launcher",),),
    images=("huggingface/text-generation-inference", "text-generation-inference"),
    short={"hostname": "host", "p": "port", "model-id": "model", "e": "env"},
    flags=frozenset({"trust-remote-code", "json-output", "ngrok", "disable-custom-kernels", "env",
                     "disable-grammar-support", "enable-prefill-logprobs"}),
    environment={
        "HOSTNAME": "", "MODEL_ID": "model", "REVISION": "revision", "TRUST_REMOTE_CODE": "trust-remote-code",
        "MAX_TOTAL_TOKENS": "max-total-tokens", "MAX_INPUT_TOKENS": "max-input-tokens", "API_KEY": "api-key",
        "MAX_INPUT_LENGTH": "max-input-length", "CORS_ALLOW_ORIGIN": "cors-allow-origin", "NGROK": "ngrok",
        "NGROK_AUTHTOKEN": "ngrok-authtoken", "USAGE_STATS": "usage-stats", "HF_TOKEN": "hf-token",
        "HUGGING_FACE_HUB_TOKEN": "hf-token", "TOKENIZER_CONFIG_PATH": "tokenizer-config-path",
    },
    docs=_TGI,
)  # fmt: skip

SGLANG = Server(
    "sglang", "SGLang", LOOPBACK, ("context-length",),
    modules=("sglang.launch_server", "sglang_router.launch_server"), programs=(("sglang", "serve"),),
    images=("lmsysorg/sglang",), short={"model-path": "model", "tp": "tp-size"},
    flags=frozenset({
        "trust-remote-code", "log-requests", "enable-metrics", "allow-auto-truncate", "enable-lora", "is-embedding",
        "skip-tokenizer-init", "stream-output", "incremental-streaming-output", "disable-radix-cache", "enable-multimodal",
        "disable-cuda-graph", "enable-torch-compile", "enable-mixed-chunk", "enable-dp-attention", "sleep-on-idle",
    }),
    environment={"HF_TOKEN": "hf-token", "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN": "allow-long-max-model-len"},
    keys=("api-key", "admin-api-key"), tls="ssl-certfile", docs=_SGLANG,
)  # fmt: skip

OLLAMA = Server(
    "ollama", "Ollama", LOOPBACK, ("context-length",), programs=(("ollama", "serve"), ("ollama", "start")),
    images=("ollama/ollama",), start=("serve",),
    environment={
        "OLLAMA_HOST": "host", "OLLAMA_CONTEXT_LENGTH": "context-length", "OLLAMA_ORIGINS": "origins",
        "OLLAMA_DEBUG": "debug", "OLLAMA_DEBUG_LOG_REQUESTS": "log-requests", "OLLAMA_NUM_PARALLEL": "num-parallel",
    },
    keys=(), docs=_OLLAMA,
)  # fmt: skip

SERVERS: Mapping[str, Server] = {s.name: s for s in (VLLM, LLAMA_SERVER, LLAMA_CPP_PYTHON, TGI, SGLANG, OLLAMA)}


def of_image(image: str) -> Server | None:
    """The server that an image carries, by the image's name."""
    name = image.split("@", maxsplit=1)[0]
    last = name.rpartition("/")[2]
    bare = name[: len(name) - len(last)] + last.partition(":")[0]
    for server in SERVERS.values():
        if any(bare == known or bare.endswith("/" + known) for known in server.images):
            return server
    return None


def of_words(words: list[str]) -> tuple[Server, int] | None:
    """The server that a command starts, and how many of its words say so."""
    if not words:
        return None
    head = [words[0].replace("\\", "/").rpartition("/")[2], *words[1:3]]
    for server in SERVERS.values():
        for program in server.programs:
            if tuple(head[: len(program)]) == program:
                return server, len(program)
        if head[0].startswith("python") and head[1:2] == ["-m"] and head[2:3] and head[2] in server.modules:
            return server, 3
    return None
