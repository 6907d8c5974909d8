"""The examples run, and do what they say."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_the_poisoned_mail_is_obeyed_without_the_middleware_and_not_with_it() -> None:
    example = runpy.run_path(str(EXAMPLES / "langchain_agent.py"))
    shown: list[str] = []
    outcome = example["main"](shown.append)
    assert outcome == {
        "without the middleware": ["sam@elsewhere.example"],
        "with it": ["injection.indirect"],
        "with it, attack unknown": ["tools.approval"],
    }
    assert len(shown) == 3 and "hunter2" not in "".join(shown)


def test_a_chain_answers_a_question_and_refuses_two_attacks(smollm2_path: Path, capsys: Any) -> None:
    runpy.run_path(str(EXAMPLES / "langchain_chain.py"))["main"](str(smollm2_path))
    said = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert said[0].startswith("> 'What is the capital") and not said[1].startswith("refused")
    assert [line for line in said if line.startswith("refused")] == [
        "refused by injection.direct", "refused by markers.control_token"
    ]  # fmt: skip


def test_pydantic_ai_never_gives_the_model_a_poisoned_mail() -> None:
    pytest.importorskip("pydantic_ai")
    answer = runpy.run_path(str(EXAMPLES / "pydantic_ai_agent.py"))["main"]()
    assert answer.startswith("I'm sorry") and "evil" not in answer


def test_llama_index_leaves_a_poisoned_node_out(smollm2_path: Path) -> None:
    pytest.importorskip("llama_index.core")
    sources = runpy.run_path(str(EXAMPLES / "llama_index_query.py"))["main"](str(smollm2_path))
    assert sources == ["The garden opens at nine."]


def test_nemo_blocks_the_attack_alone() -> None:
    assert runpy.run_path(str(EXAMPLES / "nemo_actions.py"))["main"]() == ["passed", "blocked"]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_every_example_says_what_it_needs_and_how_it_is_run(path: Path) -> None:
    head = path.read_text(encoding="utf-8").split('"""')[1]
    assert "pip install 'shieldkit" in head and "examples" in head and path.stem in head
