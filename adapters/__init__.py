"""Adapters: a module for each thing outside that shieldkit works with, in a folder where one file would be long.

What needs more than the core is behind an extra; Guardrails AI and LiteLLM want an environment of their own, and have none.
The core imports no adapter. Shared by several of them:

    checks.py         what an adapter is given, checked when it is made
    wire/             OpenAI's HTTP API as plain data, for the gateway, the guarded client, and the errors of the ASGI middleware
    openai_model.py   the application's own OpenAI client as a backend, for the guarded client
"""
