"""Canonical descriptions and content ids: what changes them and what must not."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from lth.allocation.layerwise import Layerwise
from lth.criterion.magnitude import magnitude
from lth.dataset.synthetic import Synthetic
from lth.lr.cosine import Cosine
from lth.lr.step import MultiStep
from lth.model.conv import Conv2
from lth.spec import canonical, content_id, name_of, spec, state_digest, tensor_digest
from lth.step import Step
from lth.types import TrainState

CONF = Path(__file__).parents[1] / "conf"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Own:
    """A user's component: one argument without default, one that changes no result."""

    needed: int
    nested: Any = None
    options: dict[str, int] = dataclasses.field(default_factory=lambda: {"a": 1})
    folder: str = dataclasses.field(default="here", metadata={"semantic": False})


def own(x: int = 3) -> int:
    return x


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"),
        (1.0, "1"),
        (-0.0, "0"),
        (0.1, "0.1"),
        (1e-8, "1e-08"),
        (True, "true"),
        (None, "null"),
        ("a", '"a"'),
        ((1, 2.0, [3]), "[1,2,[3]]"),
        ({"b": 1, "a": 2.0}, '{"a":2,"b":1}'),
        (Step(2, 5), '"2ep5it"'),
        (magnitude, '{"name":"magnitude"}'),
        (Cosine(), '{"name":"Cosine"}'),
        (Cosine(floor=0), '{"name":"Cosine"}'),
        (Cosine(floor=0.5), '{"floor":0.5,"name":"Cosine"}'),
        (Layerwise(rates={"conv": 0.10}), '{"name":"Layerwise","rates":{"conv":0.1}}'),
        (MultiStep(milestones=["1ep"]), '{"milestones":["1ep"],"name":"MultiStep"}'),
        (functools.partial(Conv2, width=64), '{"name":"Conv2"}'),
        (functools.partial(Conv2, width=4), '{"name":"Conv2","width":4}'),
        # torch's defaults may change with torch, so what is given is told
        (functools.partial(torch.optim.Adam, lr=1e-3), '{"lr":0.001,"name":"Adam"}'),
    ],
)
def test_canonical(value: Any, text: str) -> None:
    assert canonical(value) == text


def test_integers_and_floats_of_one_value_have_one_id() -> None:
    assert content_id({"rate": 1, "list": [2]}) == content_id({"list": [2.0], "rate": 1.0})
    assert content_id({"rate": 1}) != content_id({"rate": 2})
    assert content_id(1) != content_id(True)
    assert content_id(1) != content_id("1")
    # SHA-256 of the two bytes {}
    assert content_id({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


def test_a_users_component_is_named_by_its_module() -> None:
    assert name_of(Own).endswith("test_spec.Own")
    assert spec(own) == {"name": f"{__name__}.own"}
    assert spec(functools.partial(own, x=3)) == {"name": f"{__name__}.own", "x": 3}
    assert name_of(torch.optim.SGD) == "SGD"


def test_what_a_dataclass_tells() -> None:
    assert spec(Own(needed=1)) == {"name": name_of(Own), "needed": 1}
    assert spec(Own(needed=1, folder="there")) == spec(Own(needed=1))
    assert spec(Own(needed=1, options={"a": 1.0})) == spec(Own(needed=1))
    assert spec(Own(needed=1, options={"a": 2}))["options"] == {"a": 2}
    assert spec(Own(needed=1, nested=Cosine(floor=0.5)))["nested"]["floor"] == 0.5
    assert spec(Synthetic(train=9)) == {"name": "Synthetic", "train": 9}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda step: step, "has no name to be stored under"),
        (Own(needed=1, nested=lambda: 0), "has no name"),
        (functools.partial(Conv2, width=lambda: 0), "has no name"),
        (functools.partial(own, 3), "pass arguments of .*own by keyword"),
        ({1, 2}, "a set has no canonical form"),
        (torch.ones(1), "a Tensor has no canonical form"),
        (object(), "a object has no canonical form"),
    ],
)
def test_refuses(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, [-math.inf]])
def test_what_is_not_finite_has_no_id(value: Any) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        content_id(value)


def test_shipped_components_of_a_group_have_different_names() -> None:
    """Ids name them by class alone, so two classes of one group must not share a name."""
    targets: dict[tuple[str, str], set[str]] = defaultdict(set)
    for path in CONF.glob("*/*.yaml"):
        node: Any = OmegaConf.to_container(OmegaConf.load(path))
        for leaf in (node, *node.values()):
            if isinstance(leaf, dict) and "_target_" in leaf:
                module, _, name = leaf["_target_"].rpartition(".")
                target = getattr(importlib.import_module(module), name)
                targets[path.parent.name, name_of(target)].add(leaf["_target_"])
    assert len(targets) > 40
    assert [t for t in targets.values() if len(t) > 1] == []


def test_tensor_digest_sees_names_types_shapes_and_bits() -> None:
    base = {"a": torch.tensor([0.0, 1.0]), "b": torch.tensor([True])}
    digest = tensor_digest(base)
    assert tensor_digest({"b": base["b"].clone(), "a": base["a"].clone()}) == digest
    assert tensor_digest({**base, "a": torch.stack([base["a"], base["a"]], 1)[:, 0]}) == digest
    others = [
        {"a": base["a"]},
        {**base, "c": base["b"]},
        {"c": base["a"], "b": base["b"]},
        {**base, "a": base["a"].double()},
        {**base, "a": base["a"].reshape(2, 1)},
        {**base, "a": torch.tensor([-0.0, 1.0])},
        {**base, "b": torch.tensor([False])},
        {**base, "b": torch.tensor([], dtype=torch.bool)},
    ]
    assert len({digest, *map(tensor_digest, others)}) == 9


def test_state_digest_sees_everything_but_the_step() -> None:
    one = {"x": torch.ones(1)}
    states = [
        TrainState(step=0, weights=one, buffers={}),
        TrainState(step=0, weights={}, buffers=one),
        TrainState(step=0, weights={}, buffers={}, optimizer=one),
        TrainState(step=0, weights={}, buffers={}),
    ]
    assert len(set(map(state_digest, states))) == 4
    moved = TrainState(step=9, weights=one, buffers={}, optimizer={})
    assert state_digest(moved) == state_digest(states[0])
