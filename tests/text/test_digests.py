"""A digest stands for one text, in this process alone, and is made once for all guards of a request."""

from __future__ import annotations

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from shieldkit import Policy, Shield, guard
from shieldkit.text import digest


@given(st.text(), st.text())
def test_equal_for_equal_texts_and_for_no_others(one: str, other: str) -> None:
    assert len(digest(one)) == 32
    assert (digest(one) == digest(other)) == (one == other)


def test_another_process_has_another_key() -> None:
    code = "from shieldkit.text import digest; print(digest('hello').hex())"
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert there != digest("hello").hex()


def test_guards_of_a_request_share_it() -> None:
    seen = []

    @guard("first")
    def first(inspection):
        seen.extend(inspection.digest(i) for i in inspection.segments)

    @guard("second")
    def second(inspection):
        seen.extend(inspection.digest(i) for i in inspection.segments)

    with Shield(Policy.from_yaml("name: x\nguards: {schema: {}}"), guards=[first, second]) as shield:
        shield.screen(["one", "two"])
        one, two, again, other = seen
        assert one is again
        assert two is other
        shield.screen(["one", "three"])
    assert seen[4] == one
    assert len({*seen}) == 3
