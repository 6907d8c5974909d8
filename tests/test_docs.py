"""What the documentation says is what happens: every Python block runs, every `shieldkit` command is run.

The blocks of a file run in order, in one namespace and one new folder. An HTML comment before a block says more:

    <!-- file: policy.yaml -->      the block is written to a file of that name, for the blocks after it
    <!-- needs: NAME -->            NAME is a module that must be installed, or a file that must be there; else: skipped
    <!-- exit: 1 -->                the command of this block ends with that code (0 or 1 are fine without saying)
    <!-- not run: REASON -->        the block is not run

`model.gguf` is always there: it is SmolLM2, the model of the demonstration.
Lines after a command, in a console block, are its output; `...` stands for anything.
"""

from __future__ import annotations

import doctest
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[\w+-]*)[^\n]*\n(?P<body>.*?)^(?P=indent)```$", re.M | re.S)
_COMMENT = re.compile(r"<!--\s*(file|needs|exit|not run)\s*:\s*(.*?)\s*-->")
_COMMENTS_BEFORE = re.compile(r"(?:<!--[^>]*-->\s*)+\Z")


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    body: str
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in _FENCE.finditer(text):
        before = _COMMENTS_BEFORE.search(text, 0, match.start())
        notes = dict(_COMMENT.findall(before.group())) if before else {}
        indent = len(match["indent"])
        body = "".join(line[indent:] for line in match["body"].splitlines(keepends=True))
        yield Block(page, text.count("\n", 0, match.start("body")), match["language"], body, notes)


def commands(block: Block) -> Iterator[tuple[str, str]]:
    """The `$ …` commands of a console block, each with the output that is shown for it."""
    command, output = "", ""
    for line in block.body.splitlines(keepends=True):
        if line.startswith("$ "):
            if command:
                yield command, output
            command, output = line[2:], ""
        elif line.startswith("> ") and command.rstrip().endswith("\\"):
            command += line[2:]
        else:
            output += line
    if command:
        yield command, output


def runnable(block: Block) -> bool:
    if block.language == "python":
        return True
    return block.language == "console" and any("shieldkit " in c for c, _ in commands(block))


def missing(block: Block, folder: Path) -> str:
    """Why the block cannot run here; empty when it can."""
    if "not run" in block.notes:
        return block.notes["not run"]
    for need in re.split(r"[,\s]+", block.notes.get("needs", "")):
        if need and not (folder / need).exists() and not _installed(need):
            return f"{need} is not here"
    return ""


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


@pytest.mark.parametrize(
    "page", [p for p in PAGES if any(map(runnable, blocks(p)))], ids=lambda page: str(page.relative_to(ROOT))
)
def test_every_block_of_the_page_runs(
    page: Path, tmp_path: Path, smollm2_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.gguf").symlink_to(smollm2_path)
    namespace: dict[str, object] = {"__name__": "__docs__"}
    ran, skipped = 0, []
    for block in blocks(page):
        if "file" in block.notes:
            (tmp_path / block.notes["file"]).write_text(block.body, encoding="utf-8")
            if block.language != "python":
                continue
        if not runnable(block):
            continue
        if reason := missing(block, tmp_path):
            skipped.append(f"{block.where}: {reason}")
            continue
        ran += 1
        if block.language == "python":
            # The line numbers of a traceback are then those of the page.
            source = "\n" * block.line + block.body
            exec(compile(source, str(page), "exec"), namespace)
        else:
            run_commands(block, tmp_path)
    capsys.readouterr()
    if not ran:
        pytest.skip("; ".join(skipped))


def run_commands(block: Block, folder: Path) -> None:
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "110"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    allowed = {int(block.notes["exit"])} if "exit" in block.notes else {0, 1}
    for command, expected in commands(block):
        done = subprocess.run(
            ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=100,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        assert done.returncode in allowed, f"{block.where}: {command}{done.stdout}{done.stderr}"
        got = done.stdout + done.stderr
        if expected.strip():
            flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            assert doctest.OutputChecker().check_output(expected, got, flags), (
                f"{block.where}: {command}is said to print:\n{expected}\nand prints:\n{got}"
            )


def test_the_pages_are_read_as_they_are_written(tmp_path: Path) -> None:
    page = ROOT / "docs" / "sample.md"  # named only, never written
    text = "<!-- file: a.yaml -->\n```yaml\nx: 1\n```\n\n<!-- exit: 2 -->\n\n```console\n$ shieldkit x\nout\n$ b\n```\n"
    stand_in = tmp_path / "sample.md"
    stand_in.write_text(text)
    first, second = blocks(stand_in)
    assert (first.language, first.body, first.notes) == ("yaml", "x: 1\n", {"file": "a.yaml"})
    assert (second.notes, list(commands(second))) == ({"exit": "2"}, [("shieldkit x\n", "out\n"), ("b\n", "")])
    assert page not in PAGES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", text):
        assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"
