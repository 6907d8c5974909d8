"""Policies: read, check, show."""
