"""`python -m shieldkit.cli`, for where the script is not on the path."""

from shieldkit.cli import script

script()
