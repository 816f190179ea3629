"""Given densities: which each layer has, how many weights that is, what they go with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir

from lth import mask as masks
from lth.allocation.given import Given
from lth.build import build
from lth.config import ConfigError
from lth.granularity.units import Units
from lth.paths import conf_dir
from lth.prepare import ladder, prepare, read_data
from lth.run import register
from lth.search import Search

LAYERS = {
    "conv1.weight": "conv",
    "conv2.weight": "conv",
    "fc1.weight": "linear",
    "fc2.weight": "output",
}


@pytest.mark.parametrize(
    ("densities", "expected"),
    [
        ({"*": 0.5}, [0.5, 0.5, 0.5, 0.5]),
        ({"*": 0.5, "output": 1.0}, [0.5, 0.5, 0.5, 1.0]),
        ({"output": 1.0, "*": 0.5}, [0.5, 0.5, 0.5, 0.5]),  # the last holds
        ({"conv": 0.1, "fc*": 0.2, "conv2.weight": 0.3}, [0.1, 0.3, 0.2, 0.2]),
    ],
)
def test_densities(densities: dict[str, float], expected: list[float]) -> None:
    assert list(Given(densities=densities).layer_densities(LAYERS).values()) == expected


def test_counts_worked_by_hand() -> None:
    """Of all weights of the layer; never more than are left; the rate has no say."""
    scores = {"a": torch.tensor([1.0, 5, 2, 4, 3]), "b": torch.arange(10.0), "c": torch.ones(3)}
    mask = {n: torch.ones(s.shape, dtype=torch.bool) for n, s in scores.items()}
    mask["b"][6:] = False  # the highest are gone
    layers = {"a": "linear", "b": "linear", "c": "output"}
    own = Given(densities={"a": 0.5, "b": 0.3, "c": 1.0})
    for rate, times in ((0.2, 1), (0.9, 3)):
        result = own(scores, mask, layers=layers, rate=rate, times=times, keep=None)
        assert result["a"].tolist() == [False, True, False, True, False]  # round(2.5) = 2
        assert result["b"].nonzero().flatten().tolist() == [3, 4, 5]  # 3 of 10, not of 6
        assert bool(result["c"].all())
    dense_b = Given(densities={"a": 0.5, "b": 0.9, "c": 1.0})
    result = dense_b(scores, mask, layers=layers, rate=0.5, times=1, keep=None)
    assert torch.equal(result["b"], mask["b"]), "9 are asked for, 6 are left"
    # On the way from 5 + 6 + 3 weights to 2 + 3 + 3: 5 (2/5)^t + 6 (3/6)^t + 3 = 11 at t = 0.392.
    result = own(scores, mask, layers=layers, rate=0.5, times=1, keep=11)
    assert {n: int(m.sum()) for n, m in result.items()} == {"a": 3, "b": 5, "c": 3}
    # A total below them is shared in their proportions.
    result = own(scores, mask, layers=layers, rate=0.5, times=1, keep=4)
    assert {n: int(m.sum()) for n, m in result.items()} == {"a": 1, "b": 2, "c": 1}


@pytest.mark.parametrize("density", [0.0, -0.1, 1.1])
def test_what_is_no_density_is_refused(density: float) -> None:
    with pytest.raises(ValueError, match=rf"^densities.conv: got {density}, allowed: 0 < density"):
        Given(densities={"conv": density})


def test_every_layer_needs_a_density() -> None:
    with pytest.raises(
        ValueError, match=r"^densities: got none for conv1.weight, allowed: one for"
    ):
        Given(densities={"fc*": 0.5}).layer_densities(LAYERS)
    with pytest.raises(ValueError, match=r"^densities: got 'fc9', allowed: a layer type"):
        Given(densities={"*": 0.5, "fc9": 0.5}).layer_densities(LAYERS)


def searched(*overrides: str) -> Search:
    register()
    options = ["allocation=given", "device=cpu", "levels=1", "seeds=[0]", *overrides]
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        run = build(compose("run", overrides=options))
    return prepare(run, read_data(run))


def test_from_the_command_line() -> None:
    """64 x 300 + 300 x 100 + 100 x 10 weights."""
    assert ladder(searched(), 1) == [1.0, 0.5]
    own = searched("allocation.densities={output:1.0,fc2.weight:0.1}")
    assert ladder(own, 1) == [1.0, (9600 + 3000 + 1000) / 50_200]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["levels=3"], "levels: got 3, allowed: 0 or 1 (allocation=given"),
        (
            ["schedule=targets", "schedule.densities=[0.5]"],
            "schedule.densities: got 0.5, allowed: a schedule of rates (allocation=given",
        ),
        (["allocation.densities={conv:0.5}"], "allocation.densities: got 'conv', allowed: a layer"),
        (["allocation.densities={linear:2}"], "allocation.densities.linear: got 2, allowed: 0 <"),
        (
            ["~allocation.densities", "+allocation.densities={output:1.0}"],
            "allocation.densities: got none for fc1",
        ),
        (["allocation.densities={linear:abc}"], "allocation.densities: got {'*': 0.5, "),
    ],
)
def test_what_does_not_go_together_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        searched(*overrides)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_steps_and_finders_end_at_the_densities(make_search: Any, make_workshop: Any) -> None:
    own = {"levels": 1, "allocation": Given(densities={"*": 0.25, "fc.weight": 1.0})}
    at_once = make_search(**own)
    expected = {"conv1.weight": 9, "conv2.weight": 54, "fc.weight": 18}
    for search in (at_once, make_search(score_steps=3, **own)):
        _, (ticket,) = search.run(make_workshop())
        mask = ticket.training.mask
        assert {n: int(m.sum()) for n, m in mask.items()} == expected


def test_of_units_it_gives_the_share_of_units(make_search: Any, make_workshop: Any) -> None:
    pytest.importorskip("torch_pruning")
    search = make_search(
        levels=1, granularity=Units(), allocation=Given(densities={"conv1.*": 0.5, "conv2.*": 1.0})
    )
    _, (ticket,) = search.run(make_workshop())
    alive = search.grain.alive(ticket.training.mask)
    assert {n: int(a.sum()) for n, a in alive.items()} == {"conv1.weight": 2, "conv2.weight": 6}
    assert 0 < masks.density(ticket.training.mask) < 1
