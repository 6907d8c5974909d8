"""Adapters: one file for each thing outside that shieldkit works with, each behind an extra. The core imports none."""
