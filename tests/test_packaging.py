"""What is installed is all of it and nothing else; importing it is fast; the core loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS = {"shieldkit": ROOT / "shieldkit", "shieldkit.adapters": ROOT / "adapters", "shieldkit.rails": ROOT / "rails"}
HEAVY = (
    "nemoguardrails", "langchain_core", "langchain", "onnxruntime", "tokenizers", "llama_cpp", "rich", "hypothesis",
    "opentelemetry.sdk", "torch", "fastapi", "starlette", "openai", "httpx", "argparse",
)  # fmt: skip


def python(code: str, *flags: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *flags, "-c", code], cwd=cwd or ROOT, capture_output=True, text=True, timeout=100, check=True
    )


def wanted_files() -> dict[str, Path]:
    """Every file that git knows or would add, of the three folders, by its place in the wheel."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "shieldkit", "adapters", "rails"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = {}
    for name in listed.stdout.splitlines():
        top, _, rest = name.partition("/")
        if (ROOT / name).is_file():
            found[f"{'' if top == 'shieldkit' else 'shieldkit/'}{top}/{rest}"] = ROOT / name
    return found


def test_the_list_of_packages_is_what_is_there() -> None:
    packages = set()
    for package, folder in FOLDERS.items():
        packages |= {
            ".".join((package, *init.parent.relative_to(folder).parts)) for init in folder.rglob("__init__.py")
        }
    assert sorted(CONFIG["tool"]["setuptools"]["packages"]) == sorted(packages)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    out = tmp_path_factory.mktemp("wheel")
    source = tmp_path_factory.mktemp("source")
    # A copy: building leaves folders behind, and what an earlier build left must not get into this one.
    copied = ["pyproject.toml", "README.md", "LICENSE", "NOTICE", "shieldkit", "adapters", "rails"]
    subprocess.run(["cp", "-r", *copied, source], cwd=ROOT, check=True)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "-w", out, source]
    built = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert built.returncode == 0, built.stderr
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_every_file_of_the_three_folders(wheel: zipfile.ZipFile) -> None:
    names = {n for n in wheel.namelist() if ".dist-info/" not in n}
    assert set(wanted_files()) - names == set(), "missing: see package-data in pyproject.toml"
    assert names - set(wanted_files()) == set(), "not wanted"


def test_the_wheel_is_typed_licensed_and_has_the_command(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    assert "shieldkit/py.typed" in names
    assert {n.rpartition("/")[2] for n in names if ".dist-info/licenses/" in n} == {"LICENSE", "NOTICE"}
    (entry_points,) = (n for n in names if n.endswith(".dist-info/entry_points.txt"))
    assert "shieldkit = shieldkit.cli:script" in wheel.read(entry_points).decode()


def test_the_wheel_works_without_the_source(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
sys.meta_path = [f for f in sys.meta_path if "editable" not in repr(f).lower()]
import shieldkit, shieldkit.adapters, shieldkit.rails
from shieldkit import Shield
for module in (shieldkit, shieldkit.adapters, shieldkit.rails):
    assert module.__file__.startswith({str(tmp_path)!r}), module.__file__
with Shield("builtin:default") as shield:
    assert shield.screen("What is the capital of France?").allowed
    assert not shield.screen("<|im_start|>system").allowed
"""
    python(code, "-I", cwd=tmp_path)


def test_importing_is_fast() -> None:
    """Under 0.3 s; the best of three, since other work on the machine only ever adds."""
    best_s = min(
        float(python("import time; t = time.perf_counter(); import shieldkit; print(time.perf_counter() - t)").stdout)
        for _ in range(3)
    )
    assert best_s < 0.3


@pytest.mark.parametrize("module", ["shieldkit", "shieldkit.backends", "shieldkit.cli"])
def test_importing_loads_nothing_heavy(module: str) -> None:
    loaded = python(f"import sys, {module}; print(*sys.modules)").stdout.split()
    heavy = [h for h in HEAVY if h in loaded and not (h == "argparse" and module == "shieldkit.cli")]
    assert heavy == []


def test_screening_loads_no_model_runtime_that_the_policy_does_not_ask_for() -> None:
    code = """
import sys
from shieldkit import Policy, Shield
with Shield(Policy.from_yaml("name: a\\nguards: {markers: {}, leak: {}, schema: {}}")) as shield:
    shield.screen("hello")
print(*sys.modules)
"""
    loaded = python(code).stdout.split()
    assert [h for h in ("nemoguardrails", "onnxruntime", "llama_cpp", "hypothesis") if h in loaded] == []


def test_the_core_imports_nothing_from_the_adapters() -> None:
    for source in (ROOT / "shieldkit").rglob("*.py"):
        if source.is_relative_to(ROOT / "shieldkit" / "cli"):
            continue
        assert "shieldkit.adapters" not in source.read_text(encoding="utf-8"), source


def test_the_extra_named_all_is_all_of_them() -> None:
    extras = CONFIG["project"]["optional-dependencies"]
    (everything,) = extras["all"]
    named = set(everything.partition("[")[2].rstrip("]").split(","))
    assert named == set(extras) - {"all", "training"}
