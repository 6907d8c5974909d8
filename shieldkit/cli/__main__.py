"""`python -m shieldkit.cli`, for where the script is not on the path."""

import sys

from shieldkit.cli import main

sys.exit(main())
