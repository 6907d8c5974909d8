"""The mean of the weights of runs that began from the same weights ("Model soups", Wortsman et al. 2022).

python -m training.soup OUT.pt MODEL.pt MODEL.pt ...
"""

from __future__ import annotations

import sys

import torch


def main() -> None:
    """Average."""
    states = [torch.load(path) for path in sys.argv[2:]]
    torch.save({name: torch.stack([s[name].float() for s in states]).mean(0) for name in states[0]}, sys.argv[1])


if __name__ == "__main__":
    main()
