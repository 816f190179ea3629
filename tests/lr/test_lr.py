"""Learning rates at given steps, by explicit numbers."""

from __future__ import annotations

import math

import pytest

from lth.lr.constant import Constant
from lth.lr.cosine import Cosine
from lth.lr.step import MultiStep
from lth.step import resolve
from lth.training import LearningRate


def test_constant() -> None:
    assert [Constant()(s, 10) for s in (0, 9)] == [1.0, 1.0]


def test_cosine() -> None:
    values = [Cosine()(s, 12) for s in (0, 3, 6, 9, 12)]
    root = math.sqrt(0.5)
    assert values == pytest.approx([1, (1 + root) / 2, 0.5, (1 - root) / 2, 0], abs=1e-15)
    assert [Cosine(floor=0.2)(s, 12) for s in (0, 6, 12)] == pytest.approx([1, 0.6, 0.2])
    for floor in (-0.1, 1.1):
        with pytest.raises(ValueError, match=f"floor: got {floor}, allowed: 0 to 1"):
            Cosine(floor=floor)


def test_multi_step_drops_at_the_milestone_itself() -> None:
    lr = MultiStep(milestones=["20it", "25it"])
    assert [lr(s, 30) for s in (0, 19, 20, 24, 25, 29)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )
    assert MultiStep(milestones=["3it"], gamma=0.5)(3, 9) == 0.5
    assert MultiStep(milestones=[])(8, 9) == 1
    assert MultiStep(milestones=["5it", "2it"])(3, 9) == pytest.approx(0.1)  # in any order


def test_multi_step_in_epochs() -> None:
    lr = resolve(MultiStep(milestones=["2ep", "2ep5it"], gamma=0.5), 10)
    assert [lr(s, 40) for s in (19, 20, 24, 25)] == [1, 0.5, 0.5, 0.25]
    with pytest.raises(ValueError, match="milestones: got 2ep, allowed: updates"):
        MultiStep(milestones=["2ep"])(0, 40)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"milestones": ["5"]}, "milestones: got '5', allowed: a step"),
        ({"milestones": [], "gamma": 0}, "gamma: got 0, allowed: above 0"),
    ],
)
def test_multi_step_refuses(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiStep(**options)  # type: ignore[arg-type]


def test_warm_up_is_linear_and_reaches_the_base_rate() -> None:
    lr = LearningRate(shape=Constant(), total=10, warmup=4)
    assert [lr(s) for s in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    scaled = LearningRate(shape=MultiStep(milestones=["2it"], gamma=0.5), total=10, warmup=4)
    assert [scaled(s) for s in range(5)] == [0.25, 0.5, 0.375, 0.5, 0.5]
    assert LearningRate(shape=Constant(), total=10)(0) == 1


def test_hold_gives_the_last_value_everywhere() -> None:
    lr = LearningRate(shape=MultiStep(milestones=["9it"], gamma=0.5), total=10, warmup=4, hold=True)
    assert [lr(s) for s in (0, 3, 9, 25)] == [0.5] * 4
    cosine = LearningRate(shape=Cosine(), total=10, hold=True)
    assert cosine(0) == Cosine()(9, 10)
