"""The disguises that users evaluate with are what the tests use."""

from shieldkit.evaluation.disguises import DISGUISES

__all__ = ["DISGUISES"]
