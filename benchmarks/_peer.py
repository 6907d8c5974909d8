"""One peer's offline checks over texts: run by peers.py with the Python of that peer's own environment.

Reads `[id, text]` a line; writes `[id, flagged or the name of an error, CPU seconds]` a line, each as soon as it is known.
"""

import json
import os
import sys
import time

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "DO_NOT_TRACK": "1",
           "HF_HUB_DISABLE_TELEMETRY": "1", "OTEL_SDK_DISABLED": "true", "TOKENIZERS_PARALLELISM": "false"}  # fmt: skip
PHRASES = [
    "ignore all previous instructions", "ignore previous instructions", "ignore the above", "disregard all previous",
    "disregard the above", "forget your instructions", "forget everything", "reveal your system prompt",
    "print your system prompt", "show me your instructions", "you are now dan", "act as dan", "do anything now",
    "developer mode", "jailbreak", "without any restrictions", "your new instructions are", "override your instructions",
    "<|im_start|>", "[INST]",
]  # fmt: skip
"""For checks that know nothing until they are given phrases: the same twenty for each."""


def llm_guard():
    from llm_guard.input_scanners import BanSubstrings, InvisibleText

    scanners = [InvisibleText(), BanSubstrings(PHRASES, match_type="str", case_sensitive=False)]
    return lambda text: not all(scanner.scan(text)[1] for scanner in scanners)


def llamafirewall():
    from llamafirewall import LlamaFirewall, Role, ScanDecision, ScannerType, UserMessage

    firewall = LlamaFirewall({Role.USER: [ScannerType.REGEX, ScannerType.HIDDEN_ASCII]})
    return lambda text: firewall.scan(UserMessage(content=text)).decision is not ScanDecision.ALLOW


def openai_guardrails():
    import asyncio

    from guardrails.checks.text.keywords import KeywordCfg, keywords

    loop, config = asyncio.new_event_loop(), KeywordCfg(keywords=PHRASES)
    return lambda text: loop.run_until_complete(keywords(None, text, config)).tripwire_triggered


def toolwall():
    from toolwall.detect import CompositeDetector

    detector = CompositeDetector(use_judge=False)  # the judge's weights are a download
    return lambda text: detector.score(text)[0] >= 0.6  # its policy's default threshold


def shieldkit():
    import shieldkit

    policy = shieldkit.Policy.load("builtin:default").model_dump(mode="json", by_alias=True, exclude_unset=True)
    for section in policy["guards"].values():
        section["timeout"] = "10m"
    shield = shieldkit.Shield(shieldkit.Policy.from_dict(policy))
    return lambda text: not shield.screen(shieldkit.Segment(text, "document")).allowed


PEERS = {"llm-guard": llm_guard, "llamafirewall": llamafirewall, "openai-guardrails": openai_guardrails,
         "toolwall": toolwall, "shieldkit": shieldkit}  # fmt: skip


def main():
    os.environ.update(OFFLINE)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what peers print is not an answer
    flagged = PEERS[sys.argv[1]]()
    flagged("Which trains go to Prague on Sunday?")
    for line in sys.stdin:
        name, text = json.loads(line)
        start = time.process_time()
        try:
            answer = bool(flagged(text))
        except Exception as error:
            answer = type(error).__name__
        out.write(json.dumps([name, answer, time.process_time() - start]) + "\n")
        out.flush()
    out.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
