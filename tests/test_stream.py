"""Streams: named, independent, and indifferent to the global generator."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lth.stream import generator, seed_of


def draw(*key: int | str) -> list[float]:
    return torch.rand(4, generator=generator(*key)).tolist()


def test_equal_keys_draw_equal_numbers() -> None:
    assert draw("order", 0, 3) == draw("order", 0, 3)
    a, b = generator("x"), generator("x")
    torch.rand(5, generator=a)  # each has a counter of its own
    assert torch.rand(1, generator=b) == draw("x")[0]


def test_different_keys_draw_different_numbers() -> None:
    purposes = ("init", "split", "order", "augment", "module", "control")
    keys: list[tuple[int | str, ...]] = [
        (p, s, n) for p in purposes for s in (0, 1) for n in (0, 1)
    ]
    keys += [("order",), ("order", 0), ("order", "0"), (0, "order"), ("order", 0, 0, 0), ()]
    keys += [("order", -1), ("order", 10), ("order", "1", "0"), ("", "order"), ("order,0",)]
    assert len({tuple(draw(*key)) for key in keys}) == len(keys) == 35


def test_seed_zero_is_a_seed() -> None:
    torch.manual_seed(1)
    first = draw("init", 0)
    torch.manual_seed(2)
    assert draw("init", 0) == first  # not "unset, so take the global generator's"
    assert draw("init", 0) != draw("init", 1)


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    draw("order", 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_seeds_do_not_change() -> None:
    """Stored results depend on these numbers: SHA-256 of the JSON text, first 63 bits."""
    assert seed_of("order", 0, 1, "epoch", 2) == 5606234242365771224
    assert seed_of() == 2858069222894195974
    assert 0 <= seed_of("x") < 2**63


@pytest.mark.parametrize("part", [True, False, None, 1.0, (1,), torch.tensor(1)])
def test_refuses(part: Any) -> None:
    with pytest.raises(ValueError, match="integers and names"):
        seed_of("order", part)
