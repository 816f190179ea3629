"""Early-bird tickets as published: scales worked by hand, the penalty, the window, a search."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lth import mask as masks
from lth.allocation.global_top import GlobalTop
from lth.conduct import _kinds
from lth.engine.batches import Batches
from lth.engine.loop import Loop
from lth.engine.mlp import refusal
from lth.event.evaluate import Evaluate
from lth.finder.early_bird_channels import (
    ChannelsStandStill,
    EarlyBirdChannels,
    hamming,
    norms_of,
    scale_of,
)
from lth.granularity.units import Units
from lth.layer import kinds
from lth.model.resnet import ResNet20
from lth.runtime import Runtime
from lth.step import Step
from lth.training import Training

pytest.importorskip("torch_pruning")

Make = Callable[..., Any]


def run(training: Training, *observers: Any) -> Any:
    (result,) = Loop().train(
        [training],
        events=lambda t: observers,
        resume=lambda t: None,
        runtime=Runtime(device="cpu"),
    )
    return result


def test_scales_worked_by_hand() -> None:
    """Coupled channels have the mean over their norms; a norm of two sets is read by entry."""
    weights = {"a.weight": torch.tensor([1.0, -2.0]), "b.weight": torch.tensor([3.0, 0.0, 5.0])}
    norms = {
        "x": {"a.weight": [0, 1], "b.weight": [1, 0, -1]},
        "y": {"b.weight": [-1, -1, 0]},
    }
    scores = scale_of(weights, norms)
    assert scores["x"].tolist() == [0.5, 2.5] and scores["y"].tolist() == [5.0]
    assert hamming(torch.tensor([True, True, False, False]), torch.tensor([True] * 4)) == 0.5


def test_norms_of_a_residual_network() -> None:
    module = ResNet20(input_shape=(1, 6, 6), num_classes=3, width=4)
    grain = Units()(module, layers=kinds(module), excluded=frozenset(), input_shape=(1, 6, 6))
    found = norms_of(grain)
    assert set(found["conv1.weight"]) == {
        "bn1.weight",
        *(f"stage1.{i}.bn2.weight" for i in range(3)),
    }
    assert found["stage1.0.conv1.weight"] == {"stage1.0.bn1.weight": [0, 1, 2, 3]}
    assert EarlyBirdChannels().refusal(grain) is None
    names = [n for own in found.values() for n in own]
    every = [n for n, m in module.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert sorted(names) == sorted(f"{n}.weight" for n in every)


def test_the_penalty_is_the_l1_norm_of_the_scales(make_search: Make) -> None:
    """Against the sum written into the loss, by plain PyTorch; nothing else changes."""
    dense = make_search().dense(0).replace(last_step=6)
    training = dense.replace(norm_l1=0.05)
    task = training.task
    net = training.model(input_shape=task.input_shape, num_classes=task.num_classes)
    net.load_state_dict({**training.start.weights, **training.start.buffers})
    optimizer = training.optimizer(net.parameters())
    batches = Batches(training, torch.device("cpu"))
    for step in range(6):
        x, y = batches(step)
        optimizer.param_groups[0]["lr"] = 0.1 * training.learning_rate(step)
        optimizer.zero_grad()
        scales = [m.weight.abs().sum() for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
        (F.cross_entropy(net(x), y) + 0.05 * sum(scales)).backward()
        optimizer.step()
    end = run(training).end
    for name, weight in net.named_parameters():
        torch.testing.assert_close(end.weights[name], weight.detach(), rtol=1e-5, atol=1e-6)
    plain = run(dense).end.weights
    assert end.weights["norm1.weight"].abs().sum() < plain["norm1.weight"].abs().sum()
    assert "norm_l1" not in dense.spec and training.id != dense.id
    assert training.replace(norm_l1=None).id == dense.id
    assert refusal(training, Runtime(device="cpu")) == "penalises no norms"
    with pytest.raises(ValueError, match="norm_l1: got 0.0, allowed: null or above 0"):
        dense.replace(norm_l1=0.0)


def still(make_search: Make, threshold: float, keep: int = 5, **mask: Any) -> Any:
    search = make_search(granularity=Units())
    event = ChannelsStandStill(
        keep=keep,
        every=Step(iterations=2),
        window=3,
        threshold=threshold,
        allocation=GlobalTop(),
        layers=dict(search.grain.layers),
        norms=norms_of(search.grain),
    )
    training = search.dense(0).replace(events=(event,))
    if mask:
        alive = {**search.grain.alive(training.mask), **mask}
        training = training.replace(mask=search.grain.expand(alive, training.mask))
    return run(training, Evaluate())


def test_it_stops_where_a_full_window_is_near(make_search: Make) -> None:
    result = still(make_search, 1.0)
    assert [r["masks"] for r in result.record.probes["early_bird"]] == [0, 1, 2]
    assert result.record.status == "stopped" and result.end.step == 6
    moved = [r["distance"] for r in still(make_search, 1e-9).record.probes["early_bird"]]
    assert all(10 * d == pytest.approx(round(10 * d)) for d in moved[1:]), "shares of ten channels"
    # Channels that are gone stay gone, and are near each other in every mask.
    left = still(make_search, 1.0, keep=4, **{"conv1.weight": torch.arange(4) < 1})
    assert left.record.memory["early_bird"][:, 1:4].sum() == 0


def test_a_search_with_channels(make_search: Make, make_workshop: Make) -> None:
    """Ten channels, three go; the mask is read off the scales where finding stopped."""
    search = make_search(
        levels=1,
        granularity=Units(),
        allocation=GlobalTop(),
        finder=EarlyBirdChannels(every="1it", window=2, threshold=1.0, l1=0.01),
        exclude=["fc.weight"],
        prune_at=0,
        rewind_step=0,
    )
    _, rows = search.run(make_workshop())
    found, ticket = rows
    assert (found.variant, ticket.variant) == ("early_bird_channels", "ticket")
    assert found.training.norm_l1 == 0.01 and ticket.training.norm_l1 is None
    assert found.stored.done["updates"] == 2 and ticket.search_steps == 2
    alive = search.grain.alive(ticket.training.mask)
    assert masks.remaining(alive) == 10 - 4
    scores = scale_of(found.stored.state("end").weights, norms_of(search.grain))
    expected = masks.keep_top(scores, search.grain.alive(found.training.mask), 6)
    assert all(torch.equal(alive[n], expected[n]) for n in alive)
    assert masks.density(found.training.mask) == 1
    again = dataclasses.replace(search)
    workshop = make_workshop()
    ids = [[r.training.id for r in rows] for rows in again.run(workshop)]
    assert ids[1] == [found.training.id, ticket.training.id]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"l1": -1.0}, "l1: got -1.0, allowed: 0 or more"),
        ({"window": 1}, "window: got 1, allowed: 2 masks or more"),
        ({"threshold": 0.0}, "threshold: got 0.0, allowed: 0 < threshold <= 1"),
        ({"every": "0it"}, "every: got '0it', allowed: a step of at least 1it"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EarlyBirdChannels(**options)


def test_an_engine_is_asked_about_the_penalty_before_anything_is_trained(make_search: Any) -> None:
    search = make_search(finder=EarlyBirdChannels())
    assert [t.norm_l1 for t in _kinds(search)] == [None, EarlyBirdChannels().l1]
