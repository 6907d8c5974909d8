"""The schema gate: one JSON value, strictly read, that conforms to a schema; or nothing.

Its modules:

    strict.py   text to one JSON value, within limits (RFC 8259, and stricter)
    gate.py     a schema compiled once, and what it makes of an answer
"""

from shieldkit.schema.gate import SchemaGate, compile_schema, reask_message
from shieldkit.schema.strict import Limits, NotConforming, Violation

__all__ = ["Limits", "NotConforming", "SchemaGate", "Violation", "compile_schema", "reask_message"]
