"""Telemetry: OpenTelemetry spans, metrics and structlog events, without content."""

from shieldkit.telemetry.recorder import ModelSpan, RequestTrace, Telemetry

__all__ = ["ModelSpan", "RequestTrace", "Telemetry"]
