"""The embedded injection and jailbreak detector.

Its modules:

    features.py   words and runs of words as hashed features, vectorised
    sweep.py      a linear model over every position of a text, calibrated
    data/         the weights, built by training/train_sweep.py
"""

from shieldkit.injection.sweep import Hit, Sweep, load

__all__ = ["Hit", "Sweep", "load"]
