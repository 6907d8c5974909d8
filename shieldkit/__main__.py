"""`python -m shieldkit`, for where the script is not on the path."""

from shieldkit.cli import script

if __name__ == "__main__":
    script()
