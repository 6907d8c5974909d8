"""The embedded injection and jailbreak detector.

Its modules, in the order a text goes through them:

    features.py   words as rows of a vocabulary, vectorised
    sweep.py      a convolutional network over every position
    windows.py    the windows around its peaks
    skim.py       a convolutional network in the encoder's embeddings, for what is around the peaks
    encoder.py    a small transformer, for the windows that are left
    reading.py    one text read by skim and encoder, as closely as it takes
    detector.py   the cascade, its calibration and its memory
    session.py    models as ONNX Runtime runs them, parallel.py several at once
    data/         the weights, made by training/
"""

from shieldkit.injection.detector import REPORTED, Detector, Hit, Judgement, load

__all__ = ["REPORTED", "Detector", "Hit", "Judgement", "load"]
