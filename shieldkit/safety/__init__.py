"""Guard models: prompt formats as data, and what their answers mean.

Its modules:

    families.py   each guard model as a record: frame, categories, labels
    prompt.py     a conversation in a family's frame, as pieces
    answers.py    the model's words and log-probabilities, read strictly
"""

from shieldkit.safety.answers import Judgement, judge
from shieldkit.safety.families import FAMILIES, Family
from shieldkit.safety.prompt import Turn, build

__all__ = ["FAMILIES", "Family", "Judgement", "Turn", "build", "judge"]
