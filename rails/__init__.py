"""Rail packs: what a product surface is for, as NeMo Guardrails configurations with example utterances.

A pack is a folder with `config.yml` and Colang files. `bank`, `code_review` and `travel` are here, and `template` to
copy for one's own. `Pack.load` reads one; `TurnJudge` scores a turn by its examples; `RailsEngine` runs NeMo.
"""

from shieldkit.rails.engine import RailsEngine, Stopped
from shieldkit.rails.judge import TurnJudge
from shieldkit.rails.pack import Pack, built_in_packs

__all__ = ["Pack", "RailsEngine", "Stopped", "TurnJudge", "built_in_packs"]
