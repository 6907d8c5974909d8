"""`shieldkit demo`."""
