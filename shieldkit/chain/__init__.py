"""The chain: one request's way through budget, input guards, model and output guards.

Its modules:

    trip.py      what belongs to one request alone
    judging.py   one guard, whatever it does, to a verdict
    metering.py  count, reserve, settle, release
    calling.py   the model's turn
    flow.py      the way itself, top to bottom
"""

from shieldkit.chain.flow import Chain
from shieldkit.chain.judging import Link

__all__ = ["Chain", "Link"]
