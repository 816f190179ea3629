"""The checks that components make of their options, and what they say."""

from __future__ import annotations

import pytest

from lth.option import at_least, one_of


def test_what_is_allowed_passes() -> None:
    one_of("origin", "k", ("init", "k"))
    at_least("draws", 1, 1)
    at_least("decay", 0.0, 0)


def test_what_is_not_is_named() -> None:
    with pytest.raises(ValueError, match=r"^origin: got 'l', allowed: init, k$"):
        one_of("origin", "l", ("init", "k"))
    with pytest.raises(ValueError, match=r"^draws: got 2, allowed: 1 \(nothing is drawn\)$"):
        one_of("draws", 2, [1], why="nothing is drawn")
    with pytest.raises(ValueError, match=r"^draws: got 0, allowed: 1 or more$"):
        at_least("draws", 0, 1)
    with pytest.raises(ValueError, match=r"^l1: got nan, allowed: 0 or more$"):
        at_least("l1", float("nan"), 0)
