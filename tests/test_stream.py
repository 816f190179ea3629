"""Streams and steps: independent by name, equal by key; written forms round-trip."""

from __future__ import annotations

import pytest
import torch

from lth.lr.step import MultiStep
from lth.step import Step, resolve
from lth.stream import generator, seed_of


def test_equal_keys_draw_equal_numbers_and_others_do_not() -> None:
    def draw(*key: int | str) -> list[float]:
        return torch.rand(4, generator=generator(*key)).tolist()

    assert draw("order", 0, 1) == draw("order", 0, 1)
    keys = [("order", 0, 1), ("order", 1, 0), ("augment", 0, 1), ("order", 0), ("order", 0, "1")]
    assert len({tuple(draw(*key)) for key in keys}) == len(keys)


def test_seed_0_is_a_seed() -> None:
    assert seed_of("init", 0) != seed_of("init")
    assert seed_of("init", 0) == seed_of("init", 0)


def test_a_bool_is_no_seed() -> None:
    with pytest.raises(ValueError, match="integers and names, got True"):
        generator("init", True)


def test_a_frozen_stream() -> None:
    assert seed_of("init", 0) == SEED


SEED = 5696364089584488662


@pytest.mark.parametrize(
    ("text", "updates"),
    [("500it", 500), ("3ep", 300), ("1ep30it", 130), ("0it", 0), ("0ep", 0), (0, 0)],
)
def test_steps(text: str | int, updates: int) -> None:
    step = Step.parse(text)
    assert step.updates(100) == updates
    assert Step.parse(str(step)) == step


@pytest.mark.parametrize("text", ["", "500", "it", "3it1ep", "-3it", "1.5ep", "3 ep 2 it", 7, True])
def test_what_is_no_step_is_refused(text: str | int) -> None:
    with pytest.raises(ValueError, match="allowed: a step such as 500it, 3ep or 1ep30it"):
        Step.parse(text)


def test_resolving_counts_every_step_of_a_component() -> None:
    resolved = resolve(MultiStep(milestones=["2ep", "5it"]), 10)
    assert [str(m) for m in resolved.milestones] == ["20it", "5it"]
