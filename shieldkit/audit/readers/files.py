"""Which file is which: a folder is walked, and each file goes to the reader that its name and its shape call for."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shieldkit.audit import located
from shieldkit.audit.commands import Started, config_options, deployment
from shieldkit.audit.deployment import Deployment, gather
from shieldkit.audit.findings import Given, Unreadable
from shieldkit.audit.located import Map, Problem
from shieldkit.audit.readers import docker, kubernetes, modelfiles, proxies, settings, shell
from shieldkit.audit.registry import Subject
from shieldkit.audit.servers import SGLANG, VLLM

MAX_WALKED, MAX_SCRIPT_BYTES = 50_000, 500_000
_PASSED_OVER = frozenset(
    {
        ".git",
        ".hg",
        ".svn",
        "node_modules",
        ".venv",
        "venv",
        "__pycache__",
        ".tox",
        ".mypy_cache",
        "site-packages",
        ".cache",
    }
)
_SHELL = re.compile(r"\A#!.*\b(?:ba|da|z|k|a)?sh\b")
_SERVING = re.compile(
    r"vllm|llama-server|llama_cpp\.server|llama\.cpp|text-generation-(?:launcher|inference)|sglang|ollama|litellm|proxy_pass"
)


@dataclass(frozen=True, slots=True)
class Options:
    """How files are read."""

    digest: bool = True
    wanted: frozenset[str] = frozenset()
    """Names of files, in lower case, whose digest is needed in any case."""
    progress: modelfiles.Progress | None = None

    def hashes(self, path: Path) -> bool:
        """Is this file read to its end?"""
        return self.digest or path.name.casefold() in self.wanted


_Reader = Callable[[Path, str], Iterator[Subject]]


def walk(path: Path) -> Iterator[Path | Unreadable]:
    """The files below a folder that may hold something to audit; symbolic links are not followed."""
    seen = 0
    for folder, names, files in os.walk(path, onerror=None, followlinks=False):
        names[:] = sorted(name for name in names if name not in _PASSED_OVER)
        here = Path(folder)
        if modelfiles.is_folder(here):
            yield here
        for name in sorted(files):
            seen += 1
            if seen > MAX_WALKED:
                yield Unreadable(str(path), f"has more than {MAX_WALKED} files; the rest was not read")
                return
            if not (here / name).is_symlink():
                yield here / name


def subjects(path: Path, options: Options, *, asked: bool) -> Iterator[Subject] | None:
    """What stands in a file or model folder; `None` where it is nothing that an audit looks at. Raises `Problem`.

    A file that was `asked` for by name and is of no known kind is a `Problem`: it has not been audited.
    """
    if path.is_dir():
        return _model(modelfiles.folder(path, digest=options.hashes, progress=options.progress))
    if path.suffix.lower() == ".gguf":
        return _model(modelfiles.gguf_file(path, digest=options.hashes(path), progress=options.progress))
    reader = _reader(path)
    if reader is None:
        reader = _by_shebang(path)
    if reader is None:
        if asked:
            raise Problem("is of no kind that is audited")
        return None
    return reader(path, str(path))


def _model(model: modelfiles.ModelFiles) -> Iterator[Subject]:
    yield model
    yield from model.templates


def _reader(path: Path) -> _Reader | None:
    tool = settings.tool_of(path)
    if tool is not None:
        return lambda path, file: iter([settings.read(tool, located.read_text(path), file)])
    return next((reader for fits, reader in _BY_NAME if fits(path.name.lower())), None)


def _by_shebang(path: Path) -> _Reader | None:
    """Scripts without a suffix."""
    if path.suffix or not path.is_file():
        return None
    try:
        with path.open("rb") as stream:
            head = stream.read(128)
    except OSError:
        return None
    return _script if _SHELL.search(head.decode("latin-1")) else None


def _script(path: Path, file: str) -> Iterator[Subject]:
    return shell.script(located.read_text(path, MAX_SCRIPT_BYTES), file)


def _template(path: Path, file: str) -> Iterator[Subject]:
    yield modelfiles.Template(path.name, Given(located.read_text(path), file, 1))


def _conf(path: Path, file: str) -> Iterator[Subject]:
    text = located.read_text(path)
    if "[program:" in text:
        yield from shell.supervisor(text, file)
    elif "proxy_pass" in text:
        yield from proxies.nginx(text, file)


def _of_text(read: Callable[[str, str], Iterator[Subject]]) -> _Reader:
    return lambda path, file: read(located.read_text(path), file)


def _yaml(path: Path, file: str) -> Iterator[Subject]:
    text = located.read_text(path)
    try:
        documents = located.documents(text)
    except Problem:
        # A chart's templates are no YAML before Helm has rendered them.
        if "{{" in text and "}}" in text:
            if "templates" in path.parts and not _SERVING.search(text):
                return
            raise Problem("is a template: render it first (`helm template`), and audit what comes out") from None
        raise
    for document in documents:
        yield from _document(document, file)
    yield from kubernetes.manifests(documents, file)


def _document(document: Any, file: str) -> Iterator[Subject]:
    if not isinstance(document, Map) or kubernetes.is_manifest(document):
        return
    if docker.is_compose(document):
        yield from docker.compose(document, file)
    elif "model_list" in document:
        yield from proxies.litellm(document, file)
    elif (made := _config(document, file)) is not None:
        yield made
    else:
        yield from kubernetes.helm(document, file)


def _config(document: Map, file: str) -> Deployment | None:
    """vLLM's and SGLang's own configuration files (`--config`)."""
    keys = {key.replace("_", "-") for key in document}
    server = VLLM if keys & {"max-model-len", "gpu-memory-utilization", "served-model-name"} else None
    server = SGLANG if keys & {"model-path", "context-length", "mem-fraction-static"} else server
    if server is None or not keys & {"model", "model-tag", "model-path", "host", "port"}:
        return None
    where = Given(server.title, file, document.line)
    made = deployment(Started(server, where, (), {}), f"{server.title} configuration")
    given = [(server.short.get(name, name), value) for name, value in config_options(document, file)]
    return Deployment(server, made.name, where, gather(given))


_BY_NAME: tuple[tuple[Callable[[str], bool], _Reader], ...] = (
    (lambda n: n.startswith(("dockerfile", "containerfile")), _of_text(docker.dockerfile)),
    (lambda n: n.endswith((".dockerfile", ".containerfile")), _of_text(docker.dockerfile)),
    (lambda n: n.startswith("modelfile") or n.endswith(".modelfile"), _of_text(proxies.modelfile)),
    (lambda n: n.endswith((".yaml", ".yml")), _yaml),
    (lambda n: n.endswith((".sh", ".bash", ".zsh", ".ksh")), _script),
    (lambda n: n.endswith((".service", ".container")), _of_text(shell.systemd)),
    (lambda n: n == "procfile" or n.startswith("procfile."), _of_text(shell.procfile)),
    (lambda n: n.endswith((".conf", ".ini")), _conf),
    (lambda n: n.endswith((".jinja", ".jinja2", ".j2")) and "template" in n, _template),
)
"""Files by their names in lower case."""
