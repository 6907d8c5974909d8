"""A disguise can be put on any text."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shieldkit.evaluation import DISGUISES
from shieldkit.text import canonicalise


@pytest.mark.parametrize("name", sorted(DISGUISES))
@given(st.text(st.characters(codec=None, exclude_categories=()), max_size=30))
@example("a lone \ud800 surrogate")
def test_a_disguise_raises_for_no_text_and_is_the_same_each_time(name: str, text: str) -> None:
    made = DISGUISES[name](text)
    assert made == DISGUISES[name](text)
    assert canonicalise(made).original == made
