"""What cannot work shows when an adapter is imported or made, not at somebody's first request: alike in all of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import pytest

from shieldkit import ConfigurationError, Shield


@pytest.fixture(scope="module")
def without_a_model() -> Iterator[Shield]:
    with Shield("builtin:default") as shield:
        yield shield


def _chat_client() -> Any:
    return import_module("openai").OpenAI(api_key="none")


def _app(*_: Any) -> None: ...


def _routes() -> Any:
    return [import_module("shieldkit.adapters.asgi").Route("/chat")]


def _settings() -> Any:
    return import_module("shieldkit.adapters.gateway").Settings("m")


def _inner() -> Any:
    return import_module("pydantic_ai.models.test").TestModel()


MAKERS: dict[str, tuple[str, str, Callable[[Any, Any], Any]]] = {
    "asgi": ("shieldkit", "ShieldMiddleware", lambda made, shield: made(_app, shield, _routes())),
    "openai": ("openai", "guard", lambda made, shield: made(_chat_client(), shield)),
    "gateway": ("starlette", "gateway", lambda made, shield: made(shield, _settings())),
    "langchain": ("langchain_core", "ShieldRunnable", lambda made, shield: made(shield)),
    "langchain, screening": ("langchain_core", "ShieldScreen", lambda made, shield: made(shield)),
    "langchain, documents": ("langchain_core", "ShieldDocumentFilter", lambda made, shield: made(shield)),
    "langchain, a model": ("langchain_core", "ShieldedChatModel", lambda made, shield: made(shield=shield)),
    "langchain, an agent": ("langchain", "ShieldMiddleware", lambda made, shield: made(shield)),
    "pydantic_ai": ("pydantic_ai", "ShieldedModel", lambda made, shield: made(_inner(), shield)),
    "llama_index": ("llama_index", "ShieldedLLM", lambda made, shield: made(shield)),
    "llama_index, nodes": ("llama_index", "ShieldNodeFilter", lambda made, shield: made(shield)),
    "nemo_actions": ("shieldkit", "register", lambda made, shield: made(None, shield)),
    "guardrails_ai": ("guardrails", "ShieldValidator", lambda made, shield: made(shield)),
    "litellm": ("litellm", "ShieldGuardrail", lambda made, shield: made(shield, guardrail_name="x")),
}  # fmt: skip
ANSWERING = ("gateway", "langchain", "langchain, a model", "llama_index")


def _made(name: str, shield: Any) -> Any:
    package, member, make = MAKERS[name]
    pytest.importorskip(package)
    return make(getattr(import_module(f"shieldkit.adapters.{name.partition(',')[0]}"), member), shield)


@pytest.mark.parametrize("name", MAKERS)
def test_what_is_no_shield_is_an_error_that_shows_one(name: str) -> None:
    for wrong in ("builtin:default", {"name": "x"}, 7):
        with pytest.raises(ConfigurationError, match=r"no Shield.*Shield\('builtin:default'\)"):
            _made(name, wrong)


@pytest.mark.parametrize("name", ANSWERING)
def test_a_shield_that_has_to_answer_and_has_no_model_is_an_error(name: str, without_a_model: Shield) -> None:
    with pytest.raises(ConfigurationError, match=r"no model to ask.*backend=…"):
        _made(name, without_a_model)


def test_a_retriever_wants_a_filter_and_no_shield(without_a_model: Shield) -> None:
    pytest.importorskip("langchain_core")
    from langchain_core.retrievers import BaseRetriever

    from shieldkit.adapters.langchain import ShieldRetriever

    class Nothing(BaseRetriever):
        def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Any]:
            return []

    documents: Any = without_a_model
    with pytest.raises(ConfigurationError, match=r"documents.*ShieldDocumentFilter\(shield\)"):
        ShieldRetriever(retriever=Nothing(), documents=documents)


WITHOUT = """
import sys
from importlib import import_module

HIDDEN = {"openai", "httpx2", "starlette", "uvicorn", "prometheus_client", "langchain", "langchain_core", "langgraph",
          "pydantic_ai", "llama_index", "guardrails", "litellm", "llama_cpp", "tokenizers"}

class Hides:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hides())
from shieldkit.errors import ConfigurationError

def shows(what):
    try:
        what()
    except ConfigurationError as error:
        assert isinstance(error, ImportError) and error.name.partition(".")[0] in HIDDEN, error
        print(error.mend)

from shieldkit.backends.langchain_model import LangChainModel
from shieldkit.backends.llama_cpp import LlamaCpp
from shieldkit.backends.tokens import TokenizerFiles
from shieldkit.backends.wire import Wire

for name in ("openai", "gateway", "pydantic_ai", "llama_index", "guardrails_ai", "litellm"):
    shows(lambda: import_module(f"shieldkit.adapters.{name}"))
langchain = import_module("shieldkit.adapters.langchain")
for name in ("ShieldRunnable", "ShieldMiddleware"):
    shows(lambda: getattr(langchain, name))
shows(lambda: LangChainModel(None))
shows(lambda: LlamaCpp(__file__).open())
shows(lambda: TokenizerFiles.read("."))
shows(lambda: Wire("http://127.0.0.1:1", api_key=None, headers={}, connect_timeout_s=1, max_response_bytes=9).get("x"))
"""
EXTRAS = (
    "shieldkit[openai]", "shieldkit[serve]", "shieldkit[pydantic-ai]", "shieldkit[llama-index]",
    "guardrails-ai>=0.11,<0.12", "litellm[proxy]", "shieldkit[langchain]", "shieldkit[langchain-agents]",
    "shieldkit[langchain]", "shieldkit[llama]", "shieldkit[openai]", "shieldkit[openai]",
)  # fmt: skip


def test_what_is_not_installed_is_one_kind_of_error_everywhere_and_names_the_command() -> None:
    code = WITHOUT.replace("__file__", repr(__file__))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [f"Install it: pip install '{extra}'" for extra in EXTRAS], done.stderr
