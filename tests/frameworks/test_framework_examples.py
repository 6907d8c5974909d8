"""The examples and the page's blocks that need these frameworks run."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_a_validator_of_guardrails_ai() -> None:
    pytest.importorskip("guardrails")
    said = runpy.run_path(str(ROOT / "examples" / "guardrails_ai_validator.py"))["main"]()
    assert said[0] == "The garden opens at nine." and said[1].startswith("I'm sorry")


def test_a_guardrail_of_litellm() -> None:
    pytest.importorskip("litellm")
    assert runpy.run_path(str(ROOT / "examples" / "litellm_guardrail.py"))["main"]() == [True, False]


def test_the_pages_block_on_guardrails_ai_runs() -> None:
    pytest.importorskip("guardrails")
    page = (ROOT / "docs" / "adapters" / "frameworks.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"<!-- needs: guardrails -->\n```python\n(.*?)```", page, re.S)
    exec(compile(block, "frameworks.md", "exec"), {})
