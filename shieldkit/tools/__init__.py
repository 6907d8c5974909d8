"""Tool calls: what a model asks to be run, what it had read before, and who may say yes to it.

Its modules:

    calls.py      the calls of a message, whatever wire form they come in
    origins.py    where the text of a conversation is from
    approval.py   a person's yes to a call
"""

from shieldkit.tools.approval import ApprovalRequest, Approver, leave_to_host
from shieldkit.tools.calls import ToolCall, calls_of
from shieldkit.tools.origins import Origin, origins_of

__all__ = ["ApprovalRequest", "Approver", "Origin", "ToolCall", "calls_of", "leave_to_host", "origins_of"]
