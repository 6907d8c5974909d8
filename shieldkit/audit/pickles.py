"""Pickles among model files: what they would call when they are loaded. Nothing is loaded; opcodes are read.

See https://docs.python.org/3/library/pickletools.html. PyTorch's own format is a zip archive with a pickle in it.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
import zlib
from pathlib import Path

MAX_BYTES, MAX_OPCODES, MAX_MEMBERS = 16_000_000, 2_000_000, 20_000
SUFFIXES = frozenset({".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".bin"})

_CALLS = frozenset(
    "os posix nt subprocess sys shutil socket runpy importlib webbrowser pty ctypes asyncio multiprocessing threading code"
    " codeop pdb bdb timeit cProfile profile requests urllib http ftplib smtplib tempfile pathlib marshal types".split()
)
_BUILTINS = frozenset(
    {"eval", "exec", "compile", "__import__", "getattr", "setattr", "open", "input", "breakpoint", "globals", "apply"}
)


def is_pickle(path: Path) -> bool:
    """Is this a pickle, or a PyTorch archive with one? `.bin` files are told by how they begin."""
    if path.suffix.lower() not in SUFFIXES:
        return False
    if path.suffix.lower() != ".bin":
        return True
    with path.open("rb") as stream:
        head = stream.read(4)
    return head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"))


def calls(path: Path) -> tuple[tuple[str, ...], bool]:
    """The dangerous names that loading would look up, and whether all of the pickle could be read."""
    found: set[str] = set()
    whole = True
    for data in _pickles(path):
        names, read = _globals(data)
        whole = whole and read
        for module, name in names:
            top = module.partition(".")[0]
            if top in _CALLS or (top in ("builtins", "__builtin__") and name in _BUILTINS) or module == "operator":
                found.add(f"{module}.{name}")
    return tuple(sorted(found)), whole


def _pickles(path: Path) -> list[bytes]:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                members = [m for m in archive.infolist()[:MAX_MEMBERS] if m.filename.endswith(".pkl")]
                return [archive.open(member).read(MAX_BYTES) for member in members[:16]] or [b""]
        with path.open("rb") as stream:
            return [stream.read(MAX_BYTES)]
    except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError):
        return [b""]


def _globals(data: bytes) -> tuple[list[tuple[str, str]], bool]:
    names: list[tuple[str, str]] = []
    strings: list[str] = []
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(io.BytesIO(data))):
            if count > MAX_OPCODES:
                return names, False
            if opcode.name in ("GLOBAL", "INST"):
                module, _, name = str(argument).partition(" ")
                names.append((module, name))
            elif opcode.name == "STACK_GLOBAL" and len(strings) >= 2:
                names.append((strings[-2], strings[-1]))
            elif isinstance(argument, str):
                strings = [*strings[-1:], argument]
    except Exception:  # whatever a broken pickle makes the reader of opcodes raise
        return names, False
    return names, True
