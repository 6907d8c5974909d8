"""What must not leave: the canary, the system prompt, secrets.

Its modules:

    canary.py    a random mark in the system prompt of each request
    escapes.py   text as it is read out of JSON
    overlap.py   how much of a text stands in another one
    secrets.py   keys and passwords, by their shapes
    samples.py   what has such a shape and opens nothing
"""
