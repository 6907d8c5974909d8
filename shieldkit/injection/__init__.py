"""The embedded injection and jailbreak detector.

Its modules, in the order a text goes through them:

    features.py   words as rows of a vocabulary, vectorised
    sweep.py      a convolutional network over every position
    session.py    models as ONNX Runtime runs them
    windows.py    which windows the encoder reads
    encoder.py    a small transformer, for those windows
    detector.py   the cascade, its calibration and its memory
    data/         the weights, made by training/
"""

from shieldkit.injection.detector import REPORTED, Detector, Hit, Judgement, load

__all__ = ["REPORTED", "Detector", "Hit", "Judgement", "load"]
