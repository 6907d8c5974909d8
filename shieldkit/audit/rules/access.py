"""Who reaches the server, and with which key."""

from __future__ import annotations

import re
from collections.abc import Iterator

from shieldkit.audit.deployment import Deployment, Reach, is_on
from shieldkit.audit.findings import Given, Hit, Severity
from shieldkit.audit.readers.kubernetes import Secret
from shieldkit.audit.registry import Context, rule

_VLLM_SECURITY = "https://docs.vllm.ai/en/latest/usage/security/"
_SECRETS = ("api-key", "admin-api-key", "hf-token", "ngrok-authtoken")
_PLACEHOLDERS = frozenset(
    "empty none null test token-abc123 changeme change-me secret password key api-key apikey sk-1234 dummy sk-no-key-required"
    " your-api-key your_api_key 123456 12345678 admin default example local foo bar token".split()
)
_REFERENCE = re.compile(r"\$|\{\{|<[^>]+>|%\(|ENC\[|vault:|op://|secretref:")
MIN_KEY_CHARS = 20


def is_literal(value: str) -> bool:
    """Is this a value itself, and not a reference to where the value is kept?"""
    return bool(value.strip()) and _REFERENCE.search(value) is None and value.strip() != "true"


def _open(deployment: Deployment) -> bool:
    return deployment.key is None and deployment.server.name != "ollama"


@rule(
    "no-api-key", Severity.CRITICAL, "Whoever reaches the server can use the model, past the shield",
    why="The server listens beyond this machine and asks for no key. The shield guards only those who come through it.",
    mend="--host 127.0.0.1, or a key from a secret store in the server's environment", source=_VLLM_SECURITY,
)  # fmt: skip
def no_api_key(deployment: Deployment, context: Context) -> Iterator[Hit]:
    if deployment.key is None and deployment.reachable >= Reach.NETWORK:
        where = deployment.gate or deployment.listens
        if deployment.server.name == "ollama":
            note = "Ollama has no authentication"
            yield Hit(where, note, "OLLAMA_HOST=127.0.0.1:11434, and a proxy that asks for keys in front of it")
        else:
            yield Hit(where, f"listens on {_shown(deployment.listens)}", _key_line(deployment))


@rule(
    "no-api-key-inside", Severity.MEDIUM, "Other containers can use the model, past the shield",
    why="Nothing is published, but everything in the same network (or whoever runs the image with a published port) reaches"
        " the server, and it asks for no key.",
    mend="Give the server a key from a secret, and the shield the same one", source=_VLLM_SECURITY,
)  # fmt: skip
def no_api_key_inside(deployment: Deployment, context: Context) -> Iterator[Hit]:
    if _open(deployment) and deployment.reachable == Reach.INTERNAL:
        yield Hit(deployment.listens, mend=_key_line(deployment))


def _key_line(deployment: Deployment) -> str:
    near = "a port published on 127.0.0.1 only" if deployment.container is not None else "--host 127.0.0.1"
    variable = next((v for v, n in deployment.server.environment.items() if n == "api-key"), "")
    return f"{variable or '--api-key'}=… from a secret, or {near}"


def _shown(given: Given) -> str:
    return given.value if re.fullmatch(r"[0-9A-Za-z.:\[\]-]{1,64}", given.value) else "an address from a variable"


@rule(
    "key-in-clear", Severity.HIGH, "A key stands in the file in clear",
    why="Whoever reads the repository, the image's history or the manifest has the key.",
    mend="Take it from the environment, a secret or a file that is not in the repository",
    source="https://cheatsheetseries.owasp.org/cheatsheets/Secrets_Management_Cheat_Sheet.html",
)  # fmt: skip
def key_in_clear(deployment: Deployment, context: Context) -> Iterator[Hit]:
    for name in _SECRETS:
        for given in deployment.options.get(name, ()):
            if is_literal(given.value):
                yield Hit(given, f"--{name}" if name in deployment.on_command_line else f"the variable for {name}")


@rule(
    "key-in-process-list", Severity.LOW, "The key is given on the command line",
    why="Arguments are seen by every user of the machine (`ps`), and are kept in process accounting and crash reports.",
    mend="Give it by the server's variable (VLLM_API_KEY, LLAMA_API_KEY, API_KEY) or a key file",
    source="https://man7.org/linux/man-pages/man1/ps.1.html",
)  # fmt: skip
def key_in_process_list(deployment: Deployment, context: Context) -> Iterator[Hit]:
    for name in _SECRETS:
        given = deployment.get(name)
        if given is not None and name in deployment.on_command_line and not is_literal(given.value):
            yield Hit(given, mend=_variable_line(deployment, name))


def _variable_line(deployment: Deployment, name: str) -> str:
    variable = next((v for v, n in deployment.server.environment.items() if n == name), "")
    return f"the variable {variable} instead of --{name}" if variable else ""


@rule(
    "key-weak", Severity.HIGH, "The key is a placeholder, or short enough to guess",
    why="Keys from examples are the first that are tried.", mend="openssl rand -hex 32, kept in a secret store",
    source="https://cheatsheetseries.owasp.org/cheatsheets/Authentication_Cheat_Sheet.html",
)  # fmt: skip
def key_weak(deployment: Deployment, context: Context) -> Iterator[Hit]:
    for name in ("api-key", "admin-api-key"):
        given = deployment.get(name)
        if given is not None and is_literal(given.value):
            for key in given.value.split(","):
                if key.strip().lower() in _PLACEHOLDERS or len(key.strip()) < MIN_KEY_CHARS:
                    yield Hit(given, f"{len(key.strip())} characters")
                    break


@rule(
    "secret-in-manifest", Severity.HIGH, "A Secret's values stand in the manifest",
    why="`data` is base64, not encryption; whoever reads the file has the values.",
    mend="Create it out of band, or use a sealed or external secret",
    source="https://kubernetes.io/docs/concepts/configuration/secret/",
)  # fmt: skip
def secret_in_manifest(secret: Secret, context: Context) -> Iterator[Hit]:
    yield Hit(secret.where, f"{len(secret.keys)} values")


@rule(
    "service-public", Severity.HIGH, "The model server is published past the shield",
    why="A load balancer, node port, host port or ingress leads straight to the model; only the shield should be reachable.",
    mend="type: ClusterIP for the model, and publish the application that holds the shield",
    source="https://kubernetes.io/docs/concepts/services-networking/service/",
)  # fmt: skip
def service_public(deployment: Deployment, context: Context) -> Iterator[Hit]:
    if deployment.reachable == Reach.PUBLIC:
        gate = deployment.gate or deployment.where
        yield Hit(gate, gate.value if gate.value.isascii() and len(gate.value) < 60 else "")
    tunnel = deployment.on("ngrok")
    if tunnel is not None:
        yield Hit(tunnel, "an ngrok tunnel to the internet", "Remove --ngrok")


@rule(
    "no-tls", Severity.MEDIUM, "Prompts and keys cross the network in clear",
    why="The server is reached from other machines and has no certificate.",
    mend="A proxy with TLS in front, or the server's own certificate options", source=_VLLM_SECURITY,
)  # fmt: skip
def no_tls(deployment: Deployment, context: Context) -> Iterator[Hit]:
    certificate = deployment.get(deployment.server.tls) if deployment.server.tls else None
    if deployment.reachable >= Reach.NETWORK and certificate is None and not deployment.tls_in_front:
        mend = f"--{deployment.server.tls} CERT, or a proxy with TLS in front" if deployment.server.tls else ""
        yield Hit(deployment.gate or deployment.listens, mend=mend)


@rule(
    "cors-any-origin", Severity.HIGH, "Any web page may call the server with its visitor's credentials",
    why="Credentials are allowed and the origin is not restricted.",
    mend='--allowed-origins \'["https://your.app"]\', or no --allow-credentials',
    source="https://docs.vllm.ai/en/latest/cli/serve/#-allowed-origins",
)  # fmt: skip
def cors_any_origin(deployment: Deployment, context: Context) -> Iterator[Hit]:
    flag = deployment.on("allow-credentials", "cors-credentials")
    origins = deployment.get("allowed-origins", "cors-origins")
    if flag is not None and (origins is None or "*" in origins.value):
        yield Hit(flag)


@rule(
    "cors-wildcard", Severity.MEDIUM, "Any web page may call the server",
    why="With the origin `*`, a page in the browser of somebody who reaches the server can use the model.",
    mend="Name the origins that need it", source="https://docs.ollama.com/faq",
)  # fmt: skip
def cors_wildcard(deployment: Deployment, context: Context) -> Iterator[Hit]:
    if deployment.on("allow-credentials") is not None:
        return
    given = deployment.get("allowed-origins", "cors-origins", "cors-allow-origin", "origins")
    if given is not None and any(
        part.strip(" []\"'") in ("*", "http://*", "https://*") for part in given.value.split(",")
    ):
        yield Hit(given)


@rule(
    "api-docs", Severity.LOW, "The server describes all of its endpoints to whoever asks",
    why="/docs and /openapi.json list the endpoints that ask for no key, the dangerous ones too.",
    mend="--disable-fastapi-docs", source="https://docs.vllm.ai/en/latest/cli/serve/#-disable-fastapi-docs",
)  # fmt: skip
def api_docs(deployment: Deployment, context: Context) -> Iterator[Hit]:
    hidden = deployment.on("disable-fastapi-docs")
    if deployment.server.name == "vllm" and deployment.reachable >= Reach.NETWORK and hidden is None:
        yield Hit(deployment.where)


@rule(
    "paths-without-key", Severity.MEDIUM, "vLLM's key guards the paths under /v1, and not the others",
    why="/invocations, /pooling, /score and /pause answer without the key, and /invocations does what /v1 does.",
    mend="A proxy in front that passes only the paths you use", source=_VLLM_SECURITY,
)  # fmt: skip
def paths_without_key(deployment: Deployment, context: Context) -> Iterator[Hit]:
    if deployment.server.name == "vllm" and deployment.key is not None and deployment.reachable >= Reach.NETWORK:
        yield Hit(deployment.gate or deployment.listens)


@rule(
    "slots-endpoint", Severity.MEDIUM, "/slots shows what others ask",
    why="llama-server's /slots shows the state of every slot, and with debugging on the prompts; it is on unless switched off.",
    mend="--no-slots", source="https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md",
)  # fmt: skip
def slots_endpoint(deployment: Deployment, context: Context) -> Iterator[Hit]:
    if deployment.server.name != "llama-server":
        return
    asked = deployment.on("slots")
    if asked is not None or (deployment.reachable >= Reach.INTERNAL and not deployment.off("slots")):
        yield Hit(asked or deployment.where)


@rule(
    "props-writable", Severity.HIGH, "Clients may change the server's settings",
    why="--props lets POST /props change global properties for everybody.", mend="Remove --props",
    source="https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md",
)  # fmt: skip
def props_writable(deployment: Deployment, context: Context) -> Iterator[Hit]:
    given = deployment.on("props") if deployment.server.name == "llama-server" else None
    if given is not None:
        yield Hit(given)


@rule(
    "metrics-endpoint", Severity.LOW, "Metrics are shown beyond this machine",
    why="Request counts, lengths and timings tell what others do, and whether an attack works.",
    mend="Scrape from the same host, or let a proxy keep /metrics inside",
    source="https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md",
)  # fmt: skip
def metrics_endpoint(deployment: Deployment, context: Context) -> Iterator[Hit]:
    given = deployment.on("metrics", "enable-metrics")
    if given is not None and is_on(given.value) and deployment.reachable >= Reach.NETWORK:
        yield Hit(given)
