"""Kubernetes manifests and Helm values: pods with model servers, and the services and ingresses that lead to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from shieldkit.audit import commands
from shieldkit.audit.deployment import Container, Deployment, Reach
from shieldkit.audit.findings import Given
from shieldkit.audit.located import Map, Seq, maps, sub, text_of
from shieldkit.audit.readers.docker import words
from shieldkit.audit.readers.shell import script

_PODS: Mapping[str, tuple[str, ...]] = {
    "Pod": (),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}
_TEMPLATED = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "ReplicationController", "Rollout")
_GATES = ("LoadBalancer", "NodePort")


@dataclass(frozen=True, slots=True)
class Secret:
    """A Secret whose values stand in the manifest."""

    name: str
    where: Given
    keys: tuple[Given, ...]


def is_manifest(document: Any) -> bool:
    """Has this document the shape of a Kubernetes object?"""
    return isinstance(document, Map) and isinstance(document.get("kind"), str) and "apiVersion" in document


def manifests(documents: Sequence[Any], file: str) -> Iterator[Deployment | Secret]:
    """The servers in the objects of one file, and the secrets that stand there in clear."""
    objects = [o for d in documents if is_manifest(d) for o in (maps(d.get("items")) if d["kind"] == "List" else [d])]
    for made in objects:
        kind = made.get("kind")
        if kind == "Secret":
            yield from _secret(made, file)
        if kind == "ConfigMap":
            for key, value in sub(made, "data").items():
                if isinstance(value, str) and "\n" in value:
                    # The block's text begins on the line after its key.
                    line = sub(made, "data").at(key)
                    yield from (_moved(d, line) for d in script(value, file))
        pod = _pod(made)
        if pod is not None:
            yield from _servers(made, pod, objects, file)


def _pod(made: Map) -> Map | None:
    kind = text_of(made.get("kind"))
    if kind in _TEMPLATED:
        return sub(made, "spec", "template")
    if kind in _PODS:
        return sub(made, *_PODS[kind]) if _PODS[kind] else made
    if kind == "InferenceService":  # KServe
        return Map(made.line) if not sub(made, "spec", "predictor") else _predictor(made)
    return None


def _predictor(made: Map) -> Map:
    predictor = sub(made, "spec", "predictor")
    pod = Map(predictor.line)
    pod["spec"] = predictor
    if "model" in predictor and "containers" not in predictor:
        predictor["containers"] = Seq(predictor.at("model"))
        predictor["containers"].append(sub(predictor, "model"))
    return pod


def _servers(made: Map, pod: Map, objects: Sequence[Map], file: str) -> Iterator[Deployment]:
    spec = sub(pod, "spec")
    name = f"{text_of(made.get('kind'))} {text_of(sub(made, 'metadata').get('name'))}"
    reach, gate, tls = _reach(pod, spec, objects, file)
    for holder in maps(spec.get("containers")):
        image = Given(text_of(holder.get("image")), file, holder.at("image"))
        found = commands.of_container(
            image, words(holder, "command", file), words(holder, "args", file), _environment(holder, objects, file)
        )
        if found is None:
            continue
        ports = [p for p in maps(holder.get("ports")) if p.get("hostPort")]
        container = _container(holder, spec, image, file)
        own, own_gate = (Reach.PUBLIC, Given("hostPort", file, ports[0].line)) if ports else (reach, gate)
        found = replace(found, container=container, reach=own, gate=own_gate)
        yield replace(commands.deployment(found, name), tls_in_front=tls)


def _reach(pod: Map, spec: Map, objects: Sequence[Map], file: str) -> tuple[Reach, Given | None, bool]:
    """How far the services and ingresses of the same file let the pod be reached; and whether with TLS."""
    labels = sub(pod, "metadata", "labels")
    reach, gate, tls = Reach.INTERNAL, None, False
    if spec.get("hostNetwork") is True:
        reach, gate = Reach.NETWORK, Given("hostNetwork", file, spec.at("hostNetwork"))
    for service in (o for o in objects if o.get("kind") == "Service"):
        selector = sub(service, "spec", "selector")
        if not selector or any(labels.get(key) != value for key, value in selector.items()):
            continue
        kind = text_of(sub(service, "spec").get("type"))
        if kind in _GATES:
            reach, gate = Reach.PUBLIC, Given(f"Service type {kind}", file, sub(service, "spec").at("type"))
        for ingress in (o for o in objects if o.get("kind") == "Ingress"):
            if _leads_to(ingress.get("spec"), sub(service, "metadata").get("name")):
                reach, gate = Reach.PUBLIC, Given("Ingress", file, ingress.at("kind"))
                tls = bool(sub(ingress, "spec").get("tls"))
    return reach, gate, tls


def _leads_to(value: Any, service: Any) -> bool:
    if isinstance(value, Map):
        named = value.get("serviceName") == service or sub(value, "service").get("name") == service
        return named or any(_leads_to(part, service) for part in value.values())
    return isinstance(value, Seq) and any(_leads_to(part, service) for part in value)


def _environment(holder: Map, objects: Sequence[Map], file: str) -> dict[str, Given]:
    found: dict[str, Given] = {}
    for source in maps(holder.get("envFrom")):
        wanted = sub(source, "configMapRef").get("name")
        for made in objects:
            if wanted and made.get("kind") == "ConfigMap" and sub(made, "metadata").get("name") == wanted:
                data = sub(made, "data")
                found |= {key: Given(text_of(value), file, data.at(key)) for key, value in data.items()}
    for entry in maps(holder.get("env")):
        name = text_of(entry.get("name"))
        if "value" in entry:
            found[name] = Given(text_of(entry["value"]), file, entry.at("value"))
        elif "valueFrom" in entry:
            found[name] = Given("$(valueFrom)", file, entry.at("valueFrom"))
    return found


def _container(holder: Map, spec: Map, image: Given, file: str) -> Container:
    own, pods = sub(holder, "securityContext"), sub(spec, "securityContext")
    user = next(
        (Given(text_of(c["runAsUser"]), file, c.at("runAsUser")) for c in (own, pods) if "runAsUser" in c), None
    )
    non_root = own.get("runAsNonRoot", pods.get("runAsNonRoot"))

    def on(context: Map, key: str) -> Given | None:
        return Given(key, file, context.at(key)) if context.get(key) is True else None

    paths = [
        Given(text_of(sub(v, "hostPath").get("path")), file, sub(v, "hostPath").at("path"))
        for v in maps(spec.get("volumes")) if "hostPath" in v
    ]  # fmt: skip
    added = sub(own, "capabilities").get("add")
    return Container(
        Given("", file, holder.line), image, user=user, non_root=non_root is True,
        privileged=on(own, "privileged"), host_network=on(spec, "hostNetwork"),
        host_ipc=on(spec, "hostIPC") or on(spec, "hostPID"), mounts=tuple(paths),
        capabilities=tuple(Given(text_of(c), file, added.at(i)) for i, c in enumerate(added)) if isinstance(added, Seq) else (),
        says_user=True,
    )  # fmt: skip


def _secret(made: Map, file: str) -> Iterator[Secret]:
    found = []
    for part in ("stringData", "data"):
        values = sub(made, part)
        found += [
            Given(key, file, values.at(key)) for key, value in values.items()
            if isinstance(value, str) and value.strip() and not _templated(value)
        ]  # fmt: skip
    if found:
        name = text_of(sub(made, "metadata").get("name"))
        yield Secret(f"Secret {name}", found[0], tuple(found))


def _templated(value: str) -> bool:
    return any(mark in value for mark in ("{{", "${", "ENC[", "<path:", "ref+"))


def _moved(made: Deployment, lines: int) -> Deployment:
    """A deployment read from a block of text, with the lines it has in the whole file."""

    def move(given: Given) -> Given:
        return replace(given, line=given.line + lines)

    options = {name: tuple(map(move, given)) for name, given in made.options.items()}
    return replace(made, where=move(made.where), options=options)


# -- Helm values ------------------------------------------------------------------------------------------------------


def helm(document: Any, file: str, depth: int = 0) -> Iterator[Deployment]:
    """The servers that a chart's values describe: mappings with an image, and with arguments for it."""
    if not isinstance(document, Map) or depth > 12:
        return
    image = _helm_image(document, file)
    if image is not None:
        arguments = [w for key in ("args", "extraArgs", "vllmArgs") for w in words(document, key, file)]
        found = commands.of_container(
            image, words(document, "command", file), arguments, _helm_environment(document, file)
        )
        if found is not None:
            kind = sub(document, "service").get("type")
            gate = (
                Given(f"Service type {text_of(kind)}", file, sub(document, "service").at("type"))
                if kind in _GATES
                else None
            )
            reach = Reach.PUBLIC if gate is not None else Reach.INTERNAL
            holder = Map(document.line)
            holder["securityContext"] = sub(document, "securityContext")
            pods = Map(document.line)
            pods["securityContext"] = sub(document, "podSecurityContext")
            container = replace(
                _container(holder, pods, image, file), where=image,
                says_user="securityContext" in document or "podSecurityContext" in document,
            )  # fmt: skip
            yield commands.deployment(replace(found, container=container, reach=reach, gate=gate), "Helm values")
            return
    for value in document.values():
        for part in value if isinstance(value, Seq) else [value]:
            yield from helm(part, file, depth + 1)


def _helm_image(document: Map, file: str) -> Given | None:
    image = document.get("image")
    if isinstance(image, Map):
        repository = "/".join(filter(None, (text_of(image.get("registry")), text_of(image.get("repository")))))
        tag = text_of(image.get("digest")) or text_of(image.get("tag"))
        separator = "@" if tag.startswith("sha256:") else ":"
        return (
            Given(f"{repository}{separator}{tag}" if tag else repository, file, document.at("image"))
            if repository
            else None
        )
    return Given(image, file, document.at("image")) if isinstance(image, str) and image else None


def _helm_environment(document: Map, file: str) -> dict[str, Given]:
    found = _environment(document, (), file)
    for key in ("env", "extraEnv", "environment"):
        values = document.get(key)
        if isinstance(values, Map):
            found |= {n: Given(text_of(v), file, values.at(n)) for n, v in values.items() if not isinstance(v, Map)}
    return found
