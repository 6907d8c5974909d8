"""Control tokens and template markers of every known model family, and what looks like one.

Its modules:

    catalogue.py   the known ones, with their families and sources
    engine.py      one pass over folded text, classified
    frames.py      role headers, and which of them are a forged chat
    lines.py       line breaks that are written out
    shapes.py      what an unknown token looks like, and a known one that is written otherwise
    runs.py        padding: long runs of one character or one token
    density.py     padding without a period: passages of delimiters
"""

from shieldkit.markers.catalogue import Token, catalogue
from shieldkit.markers.density import dense
from shieldkit.markers.engine import Marker, MarkerEngine
from shieldkit.markers.runs import runs

__all__ = ["Marker", "MarkerEngine", "Token", "catalogue", "dense", "runs"]
