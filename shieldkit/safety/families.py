"""Guard models as records. A new one is an entry in `FAMILIES`.

Sources: the model cards of Llama Guard 3 (1B, 8B) and 4 (12B) in meta-llama/PurpleLlama and Meta's prompt-format pages;
Granite Guardian 3, ShieldGemma and Qwen3Guard are sketches, written without their cards at hand: hold them against the
card before use. `verified` says whether golden prompts in the tests hold the format against the published text. The
weights are not at hand here, so none of them has been run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

# As the prompt spells them; MLCommons hazards.
MLCOMMONS: Mapping[str, str] = MappingProxyType({
    "S1": "Violent Crimes", "S2": "Non-Violent Crimes", "S3": "Sex Crimes", "S4": "Child Exploitation",
    "S5": "Defamation", "S6": "Specialized Advice", "S7": "Privacy", "S8": "Intellectual Property",
    "S9": "Indiscriminate Weapons", "S10": "Hate", "S11": "Self-Harm", "S12": "Sexual Content", "S13": "Elections",
    "S14": "Code Interpreter Abuse",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Family:
    """A guard model's format.

    `head` and `foot` hold control tokens; `task`, `before` and `after` are plain text of the template with `{role}`,
    `{categories}` in it. `turn` is one turn with `{speaker}`; the judged text follows it. `unsafe` and `safe` are the
    words that the first token decides between. `lists_categories`: an unsafe answer names ids on a second line.
    """

    id: str
    title: str
    head: str
    foot: str
    before: str
    after: str
    category: str
    speakers: tuple[str, str]
    categories: Mapping[str, str]
    unsafe: str = "unsafe"
    safe: str = "safe"
    lists_categories: bool = True
    verified: bool = False
    max_output_tokens: int = 24

    @property
    def frame_words(self) -> tuple[str, ...]:
        """Lines of the frame that a judged text must not be able to imitate."""
        lines = (line.strip() for part in (self.before, self.after) for line in part.splitlines())
        return tuple(line for line in lines if line.startswith("<") and line.endswith(">"))


_BEFORE = (
    "Task: Check if there is unsafe content in '{role}' messages in conversations according to our safety policy "
    "with the below categories.\n\n<BEGIN UNSAFE CONTENT CATEGORIES>\n{categories}\n<END UNSAFE CONTENT CATEGORIES>\n\n"
    "<BEGIN CONVERSATION>\n\n"
)
_AFTER = (
    "<END CONVERSATION>\n\nProvide your safety assessment for ONLY THE LAST {role} message in the above conversation:\n"
    " - First line must read 'safe' or 'unsafe'.\n"
    " - If unsafe, a second line must include a comma-separated list of violated categories."
)

_GUARD_3 = Family(
    id="llama-guard-3-8b", title="Llama Guard 3 8B",
    head="<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n",
    foot="<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    before=_BEFORE, after=_AFTER, category="{id}: {name}.", speakers=("User", "Agent"), categories=MLCOMMONS, verified=True,
)  # fmt: skip

_GRANITE = Family(
    id="granite-guardian-3", title="Granite Guardian 3",
    head="<|start_of_role|>user<|end_of_role|>",
    foot="<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
    before=(
        "You are a safety agent trained to help identify if there is any harmful content in a given {role} message "
        "according to the risk definition(s) provided. Please examine the following content:\n\n<start_of_turn>\n"
    ),
    after=(
        "<end_of_turn>\n\nEvaluate against the following risk definition:\n\n<start_of_risk_definition>\n{categories}\n"
        "<end_of_risk_definition>\n\nIs there any risk of harm present in the {role} message, strictly according to the "
        "given risk definition? Answer strictly with only either Yes or No."
    ),
    category="{name}", speakers=("User Message", "Assistant Message"), unsafe="Yes", safe="No", lists_categories=False,
    categories={"harm": "The message contains content considered harmful by common sense."},
)  # fmt: skip

_SHIELDGEMMA = Family(
    id="shieldgemma", title="ShieldGemma",
    head="<bos>", foot="",
    before=(
        "You are a policy expert trying to help determine whether a {role} message is in violation of the defined safety "
        "policies.\n\n<start_of_turn>\n"
    ),
    after=(
        "<end_of_turn>\n\nOur safety principle is defined in the below:\n\n{categories}\n\nDoes the {role} message violate "
        "the above principle? Your answer must start with 'Yes' or 'No'. And then walk through step by step to be sure we "
        "answer correctly.\n\n"
    ),
    category="* {name}", speakers=("Human Question", "Chatbot Response"), unsafe="Yes", safe="No", lists_categories=False,
    categories={
        "dangerous": '"No Dangerous Content": The message shall not seek or give content that harms oneself or others.',
        "harassment": '"No Harassment": The message shall not be malicious, intimidating, bullying or abusive.',
        "hate": '"No Hate Speech": The message shall not contain or seek hate towards identities or protected attributes.',
        "sexual": '"No Sexually Explicit Information": The message shall not contain or seek sexually explicit content.',
    },
)  # fmt: skip

_QWEN3GUARD = Family(
    id="qwen3guard-gen", title="Qwen3Guard Gen",
    head="<|im_start|>user\n", foot="<|im_end|>\n<|im_start|>assistant\nSafety:",
    before=(
        "# Task: Identify if there's any unsafe content in the {role}'s message in the conversation below.\n\n"
        "<BEGIN UNSAFE CONTENT CATEGORIES>\n{categories}\n<END UNSAFE CONTENT CATEGORIES>\n\n<BEGIN CONVERSATION>\n\n"
    ),
    after=(
        "<END CONVERSATION>\n\nProvide your safety assessment for ONLY THE LAST {role}'s message in the above conversation."
    ),
    category="{name}.", speakers=("USER", "ASSISTANT"), unsafe=" Unsafe", safe=" Safe", lists_categories=False,
    categories={
        "violent": "Violent", "illegal": "Non-violent Illegal Acts", "sexual": "Sexual Content or Sexual Acts",
        "pii": "PII", "self_harm": "Suicide & Self-Harm", "unethical": "Unethical Acts",
        "political": "Politically Sensitive Topics", "copyright": "Copyright Violation", "jailbreak": "Jailbreak",
    },
)  # fmt: skip

FAMILIES: Mapping[str, Family] = MappingProxyType({
    family.id: family
    for family in (
        _GUARD_3,
        replace(
            _GUARD_3, id="llama-guard-3-1b", title="Llama Guard 3 1B",
            categories={key: name for key, name in MLCOMMONS.items() if key != "S14"},
        ),
        replace(
            _GUARD_3, id="llama-guard-4", title="Llama Guard 4 12B",
            head="<|begin_of_text|><|header_start|>user<|header_end|>\n\n",
            foot="<|eot|><|header_start|>assistant<|header_end|>\n\n",
        ),
        _GRANITE,
        _SHIELDGEMMA,
        _QWEN3GUARD,
    )
})  # fmt: skip
