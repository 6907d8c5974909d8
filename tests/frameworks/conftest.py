"""Frameworks whose versions do not go with shieldkit's other extras: `make test-frameworks` gives them their own environment."""

from __future__ import annotations

import importlib.util
import os

if importlib.util.find_spec("guardrails") or importlib.util.find_spec("litellm"):  # not where these tests are skipped
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else importing LiteLLM fetches a price list
    os.environ.setdefault("OTEL_SDK_DISABLED", "true")  # nothing that a framework reports leaves this machine
