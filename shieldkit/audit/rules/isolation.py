"""What the server's process or container could do when it is taken over."""

from __future__ import annotations

from collections.abc import Iterator

from shieldkit.audit.deployment import Deployment
from shieldkit.audit.findings import Hit, Severity
from shieldkit.audit.registry import Context, rule

_CIS = "https://kubernetes.io/docs/concepts/security/pod-security-standards/"
_DANGEROUS = frozenset({"ALL", "SYS_ADMIN", "SYS_PTRACE", "SYS_MODULE", "DAC_READ_SEARCH", "NET_ADMIN", "SYS_RAWIO"})
_SENSITIVE = (
    "/etc",
    "/root",
    "/home",
    "/var/run",
    "/run",
    "/proc",
    "/sys",
    "/boot",
    "/dev",
    "/usr",
    "/bin",
    "/var/lib",
)
_SOCKETS = ("docker.sock", "containerd.sock", "podman.sock", "crio.sock")


@rule(
    "image-unpinned", Severity.MEDIUM, "The image is whatever its tag means today",
    why="`latest`, or no tag at all, brings another server, with other defaults, at the next pull.",
    mend="Pin a version, better a digest: image:v0.32.0@sha256:…", source="https://docs.docker.com/build/building/best-practices/",
)  # fmt: skip
def image_unpinned(deployment: Deployment, context: Context) -> Iterator[Hit]:
    image = deployment.container.image if deployment.container is not None else None
    if image is None or not image.value or "@sha256:" in image.value:
        return
    tag = image.value.rpartition("/")[2].partition(":")[2]
    if not tag or tag in ("latest", "nightly", "main", "master", "server", "server-cuda", "full", "dev"):
        yield Hit(image, f"tag {tag}" if tag else "no tag")


@rule(
    "runs-as-root", Severity.MEDIUM, "The server runs as root",
    why="Parsers of models, images and grammars are native code; as root a fault in them owns the container, or the machine.",
    mend="USER 1000 (Dockerfile), user: '1000' (compose), runAsNonRoot: true (Kubernetes), User= or DynamicUser= (systemd)",
    source=_CIS,
)  # fmt: skip
def runs_as_root(deployment: Deployment, context: Context) -> Iterator[Hit]:
    box, unit = deployment.container, deployment.unit
    if box is not None:
        root = box.user is not None and box.user.value.partition(":")[0].strip() in ("0", "root")
        silent = box.user is None and box.says_user and not box.non_root
        if root or silent:
            yield Hit(box.user or box.where)
    if unit is not None and unit.user is None:
        yield Hit(unit.where, f"{unit.kind} runs it as root unless told otherwise")


@rule(
    "privileged", Severity.HIGH, "The container may do what the host may",
    why="Privileged containers and capabilities such as SYS_ADMIN undo the isolation.",
    mend="Remove it; GPUs need device plugins, not privileges", source=_CIS,
)  # fmt: skip
def privileged(deployment: Deployment, context: Context) -> Iterator[Hit]:
    box = deployment.container
    if box is not None:
        if box.privileged is not None:
            yield Hit(box.privileged)
        for capability in box.capabilities:
            if capability.value.upper().removeprefix("CAP_") in _DANGEROUS:
                yield Hit(capability)


@rule(
    "host-network", Severity.MEDIUM, "The container shares the host's network",
    why="It listens on every interface of the host, and reaches what listens on the host's loopback.",
    mend="A network of its own, with one published port", source=_CIS,
)  # fmt: skip
def host_network(deployment: Deployment, context: Context) -> Iterator[Hit]:
    if deployment.container is not None and deployment.container.host_network is not None:
        yield Hit(deployment.container.host_network)


@rule(
    "host-ipc", Severity.LOW, "The container shares the host's memory or processes",
    why="Shared memory of other processes can be read and written.",
    mend="shm_size: 8gb (or --shm-size) instead", source="https://docs.vllm.ai/en/latest/deployment/docker/",
)  # fmt: skip
def host_ipc(deployment: Deployment, context: Context) -> Iterator[Hit]:
    if deployment.container is not None and deployment.container.host_ipc is not None:
        yield Hit(deployment.container.host_ipc)


@rule(
    "host-mount", Severity.HIGH, "A sensitive path of the host is mounted",
    why="Keys, sockets or the whole disk can be read, or taken over, from inside of the container.",
    mend="Mount the model's folder alone, read-only: ./models:/models:ro", source=_CIS,
)  # fmt: skip
def host_mount(deployment: Deployment, context: Context) -> Iterator[Hit]:
    for mount in deployment.container.mounts if deployment.container is not None else ():
        if _is_sensitive(mount.value.partition("source=")[2].partition(",")[0] or mount.value.split(":")[0]):
            yield Hit(mount)


def _is_sensitive(source: str) -> bool:
    path = source.rstrip("/") or "/"
    if path in ("/", "~", "$HOME", "${HOME}") or path.endswith(_SOCKETS) or ".ssh" in path:
        return True
    # A cache in somebody's home is how models are shared; the home itself is not.
    deep = path.count("/") >= 3 and path.startswith(("/home", "/var/lib", "/usr"))
    return not deep and any(path == known or path.startswith(known + "/") for known in _SENSITIVE)
