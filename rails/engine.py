"""NeMo Guardrails, run on an event loop of its own in a daemon thread.

NeMo's synchronous calls refuse to run inside a running loop, and its patch of the loop would change the caller's. So
the loop here is private: callers on any thread, inside a loop or not, hand a turn over and wait. `LLMRails` is built
once, on that thread. Three of NeMo's defaults are set otherwise, for this process: usage reports are off, its loggers
(which log the user's text at INFO) are silent below WARNING unless the application has set a level, and the history
cache, which keeps every conversation for ever, is bypassed by giving an explicit, empty state.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import threading
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from shieldkit.backends.base import Backend
from shieldkit.errors import ConfigurationError, GuardError, GuardTimeout
from shieldkit.outcome import Stage
from shieldkit.rails.pack import Pack
from shieldkit.rails.stepping import begin_turn, step_incrementally

_TOPIC_FLOWS = frozenset({"topic guard", "topic guard output"})
_ON_TOPIC: contextvars.ContextVar[bool] = contextvars.ContextVar("shieldkit_on_topic", default=False)


@dataclass(frozen=True, slots=True)
class Stopped:
    """A rail stopped the turn. `topic` says that it was the pack's topic flow; otherwise it is another of its rails."""

    rail: str
    topic: bool


async def _topic_guard() -> bool:
    """The action `topic_guard` that packs call: whether the turn at hand was judged on topic. False when in doubt."""
    return _ON_TOPIC.get()


class RailsEngine:
    """One pack's `LLMRails`. `run` may be called by many threads at once, also inside a running event loop."""

    def __init__(self, pack: Pack, embedding_model: str, backend: Backend | None = None) -> None:
        """Start the thread and build the rails in it. `backend` answers the pack's rails that need a language model."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="shieldkit-rails", daemon=True)
        self._thread.start()
        try:
            self._rails = self._submit(self._build(pack, embedding_model, backend)).result(120)
        except ImportError:
            self.close()
            mend = "Install it: pip install 'shieldkit[nemo]'"
            raise ConfigurationError("guards.topics", "NeMo Guardrails is not installed", mend=mend) from None
        except BaseException:
            self.close()
            raise

    def run(self, text: str, stage: Stage, *, on_topic: bool, timeout_s: float) -> Stopped | None:
        """What the pack's rails of a stage make of a text that was judged on topic or not; None lets it pass.

        Raises `GuardTimeout`, and `GuardError` when a rail fails or rewrites the text: neither is a pass.
        """
        call = self._submit(self._turn(text, stage, on_topic))
        try:
            response = call.result(timeout_s)
        except TimeoutError:
            call.cancel()
            raise GuardTimeout(f"the rails did not answer within {timeout_s:g} s") from None
        except Exception as error:  # its message may hold the user's text
            raise GuardError(f"the rails failed ({type(error).__name__})") from None
        return _outcome(response, text)

    def close(self) -> None:
        """Stop the loop and its thread. Turns under way fail."""
        if not self._loop.is_closed() and self._loop.is_running():
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    @property
    def intents(self) -> Mapping[str, Sequence[str]]:
        """The example utterances of the pack by intent, as NeMo has read them."""
        return dict(self._rails.config.user_messages)

    @property
    def remembered(self) -> int:
        """Conversations that NeMo keeps in memory; always 0."""
        return len(self._rails.events_history_cache)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.run_until_complete(asyncio.sleep(0))
            self._loop.close()

    def _submit(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        if self._loop.is_closed():
            work.close()
            raise GuardError("the rails are closed")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _build(self, pack: Pack, embedding_model: str, backend: Backend | None) -> Any:
        os.environ["NEMO_GUARDRAILS_NO_USAGE_STATS"] = "1"
        logger = logging.getLogger("nemoguardrails")
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.WARNING)
        from nemoguardrails.rails import LLMRails

        from shieldkit.rails.nemo import EMBEDDING_ENGINE, BackendModel, register_embeddings

        register_embeddings()
        config = pack.rails_config(EMBEDDING_ENGINE, embedding_model)
        rails = LLMRails(config, llm=BackendModel(backend) if backend is not None else None)
        rails.register_action(_topic_guard, "topic_guard")
        step_incrementally(rails.runtime)
        return rails

    async def _turn(self, text: str, stage: Stage, on_topic: bool) -> Any:
        _ON_TOPIC.set(on_topic)
        begin_turn()
        messages = [{"role": "user", "content": text}]
        if stage is Stage.OUTPUT:
            messages = [{"role": "user", "content": ""}, {"role": "assistant", "content": text}]
        options = {"rails": [stage.value], "log": {"activated_rails": True}}
        return await self._rails.generate_async(messages=messages, options=options, state={})


def _outcome(response: Any, text: str) -> Stopped | None:
    rails = response.log.activated_rails if response.log is not None else []
    for rail in rails:
        if rail.stop:
            return Stopped(str(rail.name), str(rail.name) in _TOPIC_FLOWS)
    said = response.response[-1].get("content") if isinstance(response.response, list) and response.response else None
    if not rails or said != text:
        raise GuardError("a rail of the pack failed, or rewrote the text, and neither is a pass")
    return None
