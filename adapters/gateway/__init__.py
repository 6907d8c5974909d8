"""An OpenAI-compatible endpoint with a shield in it: `shieldkit serve`, or `gateway(shield, …)` as an ASGI app.

Its modules:

    keys.py       API keys, and what each may do
    door.py       who is let in: key, rate, body
    app.py        the routes, and the way of one request
    tally.py      what is counted
    metrics.py    the counts for Prometheus
    dashboard.py  the counts for people: the page /shield
    serving.py    uvicorn, with limits and a graceful end
"""

from shieldkit.errors import MissingExtra

try:
    from shieldkit.adapters.gateway.app import Settings, gateway
    from shieldkit.adapters.gateway.keys import Key, Keys, new_key
except ModuleNotFoundError as error:
    if (error.name or "").startswith("shieldkit"):
        raise
    raise MissingExtra("what the gateway needs", "serve", name=error.name) from None

__all__ = ["Key", "Keys", "Settings", "gateway", "new_key"]
