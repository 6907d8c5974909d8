"""What a model on disk is, what it was made from, and what runs when it is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator

from shieldkit.audit.deployment import Deployment
from shieldkit.audit.findings import Given, Hit, Severity
from shieldkit.audit.readers.modelfiles import ModelFiles
from shieldkit.audit.registry import Context, also, rule
from shieldkit.audit.rules.context import LONG
from shieldkit.markers.catalogue import catalogue

_TURN = re.compile(r"<\|[^|<>\n]{1,64}\|>")
_UNSAFE = re.compile(r"(?i)abliterat|uncensor|unfiltered|heretic|jailbr[eo]ke?n|no-?refus|derestrict|unaligned")


@rule(
    "model-pickle", Severity.HIGH, "The weights are pickles, which run code when they are loaded",
    why="A pickle is a program. Loading it, even to look at it, runs what it contains.",
    mend="Use the safetensors files of the same model", source="https://docs.python.org/3/library/pickle.html",
)  # fmt: skip
def model_pickle(model: ModelFiles, context: Context) -> Iterator[Hit]:
    for where, names, whole in model.pickles:
        if not names:
            yield Hit(where, "" if whole else "not all of it could be read")


@rule(
    "model-pickle-runs-code", Severity.CRITICAL, "A weights file calls functions that no weights need",
    why="It looks up functions that run commands, read files or fetch code.", mend="Delete it; it is an attack",
    source="https://docs.python.org/3/library/pickle.html",
)  # fmt: skip
def model_pickle_runs_code(model: ModelFiles, context: Context) -> Iterator[Hit]:
    for where, names, _ in model.pickles:
        if names:
            plain = [name for name in names if re.fullmatch(r"[\w.]{1,60}", name)]
            yield Hit(where, ", ".join(plain[:5]))


@rule(
    "model-brings-code", Severity.HIGH, "The model brings code that trust_remote_code would run",
    why="Python files in the folder, or an `auto_map` that names some, are run with the server's rights.",
    mend="Use a model that the server knows by itself, or review the files and pin them",
    source="https://huggingface.co/docs/transformers/custom_models",
)  # fmt: skip
def model_brings_code(model: ModelFiles, context: Context) -> Iterator[Hit]:
    for where in model.code:
        yield Hit(where, where.value if re.fullmatch(r"[\w.-]{1,80}", where.value) else "")


@rule(
    "model-context-long", Severity.LOW, "The model's own context is above 128K tokens",
    why="A server that is not told otherwise grants all of it.", mend="Cap the context where the model is served",
    source="https://arxiv.org/abs/2307.03172",
)  # fmt: skip
def model_context_long(model: ModelFiles, context: Context) -> Iterator[Hit]:
    if model.context is not None and int(model.context.value) > LONG:
        yield Hit(model.context, f"{int(model.context.value)} tokens")


@rule(
    "context-beyond-model", Severity.HIGH, "The policy grants more context than the model has",
    why="Beyond its trained context a model forgets its instructions; servers stretch, cut or fail.",
    mend="Lower context.max_tokens in the policy", source="shieldkit policy schema: context.max_tokens",
)  # fmt: skip
def context_beyond_model(model: ModelFiles, context: Context) -> Iterator[Hit]:
    asked = context.policy.context.max_tokens if context.policy is not None else None
    if asked is not None and model.context is not None and int(model.context.value) < asked:
        yield Hit(model.context, f"{int(model.context.value)} tokens, the policy grants {asked}")


@rule(
    "turn-token-is-text", Severity.MEDIUM, "A token that opens turns is not marked as a control token",
    why="Such tokens are found in any text, also where special tokens are switched off: a user who types one opens a turn.",
    mend="Mark it as special (HF), or as CONTROL (GGUF), and convert again",
    source="https://github.com/ggml-org/ggml/blob/master/docs/gguf.md",
)  # fmt: skip
def turn_token_is_text(model: ModelFiles, context: Context) -> Iterator[Hit]:
    templates = "".join(template.where.value for template in model.templates)
    used = set(_TURN.findall(templates))
    for token in model.tokens:
        if not token.control and token.text in used:
            yield Hit(model.where, token.text)


@rule(
    "token-unknown", Severity.LOW, "A control token of the template is not in shieldkit's catalogue",
    why="Screening without this model as the backend does not know it. With the backend its own tokens are asked for.",
    mend="guards: {markers: {extra_tokens: […]}} in the policy", source="shieldkit policy schema: guards.markers",
)  # fmt: skip
def token_unknown(model: ModelFiles, context: Context) -> Iterator[Hit]:
    known = {token.text.strip() for token in catalogue()}
    templates = "".join(template.where.value for template in model.templates)
    for token in model.tokens:
        spelled = token.text.strip()
        # Whatever has the shape of one is found without being known.
        listed = spelled in known or _TURN.fullmatch(spelled) is not None
        if token.control and 3 < len(spelled) <= 64 and spelled.isascii() and not listed and spelled in templates:
            yield Hit(model.where, spelled)


@also("model-not-allowed")
def model_not_listed(model: ModelFiles, context: Context) -> Iterator[Hit]:
    if context.allowed is None:
        return
    claimed = [g.value for g in (model.where, *model.names)]
    listed = any(context.allowed.allows(name) or context.allowed.allows(_last(name)) for name in claimed)
    if not listed and not any(context.allowed.allows(base.value) for base in model.bases):
        yield Hit(model.where)


@rule(
    "model-base-not-allowed", Severity.HIGH, "The model was made from one that is not on the allowlist",
    why="A derivative has the habits of what it was made from, whatever it is called.",
    mend="Use a derivative of a listed model, or list its base on purpose", source="https://huggingface.co/docs/hub/model-cards",
)  # fmt: skip
def model_base_not_allowed(model: ModelFiles, context: Context) -> Iterator[Hit]:
    for base in model.bases if context.allowed is not None else ():
        if context.allowed is not None and not context.allowed.allows(base.value):
            yield Hit(base)


@rule(
    "model-digest-differs", Severity.CRITICAL, "The file is not the one on the allowlist",
    why="Its name is listed with another SHA-256.", mend="Get the file again from where you trust it",
    source="--allow-models",
)  # fmt: skip
def model_digest_differs(model: ModelFiles, context: Context) -> Iterator[Hit]:
    for where, digest in model.digests if context.allowed is not None else ():
        wanted = context.allowed.digest_of(where.value) if context.allowed is not None else None
        if wanted is not None and wanted != digest:
            yield Hit(where)


@rule(
    "model-safety-removed", Severity.HIGH, "The model says that its refusals were removed",
    why="Abliterated and uncensored derivatives answer what their base refuses; no guard makes up for all of that.",
    mend="Use the model it was made from", source="https://arxiv.org/abs/2406.11717",
)  # fmt: skip
def model_safety_removed(model: ModelFiles, context: Context) -> Iterator[Hit]:
    yield from _unsafe([*model.names, *model.bases, model.where][:1000])


@also("model-safety-removed")
def served_safety_removed(deployment: Deployment, context: Context) -> Iterator[Hit]:
    yield from _unsafe([g for g in (deployment.model, deployment.get("served-model-name", "alias")) if g is not None])


def _unsafe(claimed: list[Given]) -> Iterator[Hit]:
    for given in claimed:
        if _UNSAFE.search(given.value[:500]):
            yield Hit(given)
            return


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2]
