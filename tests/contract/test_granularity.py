"""Every shipped granularity keeps the contract of ``lth.protocol.Granularity``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from lth import mask as masks
from lth.baseline.random_mask import RandomMask
from lth.baseline.shuffled_mask import ShuffledMask
from lth.baseline.sign_reinit import SignReinit
from lth.protocol import Grain, Granularity
from lth.spec import spec, tensor_digest

FILES = sorted((Path(__file__).parents[2] / "conf" / "granularity").glob("*.yaml"))
CONTROLS = {
    "random_mask": RandomMask(),
    "shuffled_mask": ShuffledMask(),
    "sign_reinit": SignReinit(),
}


class Network(nn.Module):
    """What every granularity finds units in: even sides, six residual blocks, norms, biases."""

    def __init__(self, *, input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(input_shape[0], 8, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(8)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8)) for _ in range(6)
        )
        self.conv2 = nn.Conv2d(8, 6, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.conv1(x)).relu()
        for branch in self.branches:
            x = (x + branch(x)).relu()
        x = self.norm2(self.conv2(x)).relu()
        output: Tensor = self.fc(x.mean((2, 3)))
        return output


@pytest.fixture(params=FILES, ids=lambda p: p.stem)
def granularity(request: pytest.FixtureRequest) -> Granularity:
    return instantiate(OmegaConf.load(request.param))  # type: ignore[no-any-return]


@pytest.fixture
def search(granularity: Granularity, make_search: Any, tiny_task: Any) -> Any:
    task = tiny_task(shape=(4, 6, 6), classes=4)
    return make_search(
        levels=1,
        model=Network,
        tasks={0: task},
        granularity=granularity,
        baselines=CONTROLS,
        exclude=["fc.weight"],
    )


def test_units_are_told_by_tensors_and_expand_to_masks(granularity: Any, search: Any) -> None:
    spec(granularity)
    grain = search.grain
    assert isinstance(granularity, Granularity) and isinstance(grain, Grain)
    assert "fc.weight" in grain.excluded
    assert grain.bypassed <= grain.scored
    dense = masks.full(search.theta_0(0).weights, search.layers)
    alive = grain.alive(dense)
    assert set(alive) == set(grain.layers) and not set(alive) & grain.excluded
    assert all(bool(m.all()) and m.dtype == torch.bool for m in alive.values())
    assert masks.density(grain.expand(alive, dense)) == 1
    scores = {n: torch.rand(m.shape) for n, m in dense.items() if n in grain.scored}
    of_units = grain.score(scores, dense)
    assert {n: s.shape for n, s in of_units.items()} == {n: m.shape for n, m in alive.items()}
    # A unit pruned by hand is gone, and so is nothing else.
    name = next(iter(alive))
    alive[name].view(-1)[1] = False
    child = grain.expand(alive, dense)
    assert masks.nested(child, dense) and masks.density(child) < 1
    again = grain.alive(child)
    assert all(torch.equal(again[n], alive[n]) for n in alive)


def test_a_search_and_its_controls(search: Any, make_workshop: Any) -> None:
    """Tickets nest, masks of controls are of whole units, signs are drawn for weights only."""
    (dense,), (ticket, *controls) = search.run(make_workshop())
    grain, own = search.grain, ticket.training.mask
    assert masks.nested(own, dense.training.mask)
    assert 0 < ticket.stored.done["density"] < 1
    assert ticket.stored.done["density"] == masks.density(own)
    assert set(ticket.stored.done["layers"]) == set(search.layers)
    most = max(
        int(w.numel()) for n, w in dense.training.start.weights.items() if n in search.layers
    )
    for row in controls:
        mask = row.training.mask
        again = grain.expand(grain.alive(mask), masks.full(row.training.start.weights, mask))
        if not grain.fixed:
            assert all(torch.equal(again[n], m) for n, m in mask.items()), "of whole units"
        if row.variant == "random_mask":
            assert abs(masks.remaining(mask) - masks.remaining(own)) < most
        else:
            assert row.stored.done["density"] == ticket.stored.done["density"]
        if row.variant == "sign_reinit":
            assert tensor_digest(mask) == tensor_digest(own)
            start = row.training.start.weights
            rest = [n for n in start if n not in search.layers]
            assert rest
            assert all(torch.equal(start[n], ticket.training.start.weights[n]) for n in rest)
        else:
            assert tensor_digest(mask) != tensor_digest(own)
            start = dense.stored.state(search.rewind_step).weights
            kept = {n: start[n] * m for n, m in mask.items()}
            assert all(torch.equal(row.training.start.weights[n], w) for n, w in kept.items())


def test_a_step_by_step_search_prunes_as_much(search: Any, make_workshop: Any) -> None:
    if search.grain.fixed:
        pytest.skip("the pattern has no counts")
    at_once = [r for rows in search.run(make_workshop()) for r in rows]
    steps = dataclasses.replace(search, score_steps=3)
    found = [r for rows in steps.run(make_workshop()) for r in rows]
    left = [masks.remaining(search.grain.alive(r.training.mask)) for r in (at_once[1], found[1])]
    assert left[0] == left[1]
    assert masks.nested(found[1].training.mask, found[0].training.mask)


def falling(mask: Any) -> dict[str, Tensor]:
    """Scores that fall with the index, so that units rank by theirs, whichever are left."""
    return {
        n: 1 / ((1 + i) * torch.arange(1.0, 1 + m.numel())).view(m.shape)
        for i, (n, m) in enumerate(mask.items())
    }


def test_what_went_in_an_earlier_step_stays_gone(search: Any, make_workshop: Any) -> None:
    """Scores that turn round after the first of two steps bring nothing back."""
    if search.grain.fixed:
        pytest.skip("the pattern has no counts")
    calls: list[int] = []

    def turning(history: Any, mask: Any, **_: Any) -> dict[str, torch.Tensor]:
        calls.append(1)
        sign = -1.0 if len(calls) == 3 else 1.0  # once for the count, then step by step
        return {n: sign * s for n, s in falling(mask).items()}

    turned = dataclasses.replace(search, criterion=turning, score_steps=2, baselines={})
    _, (ticket,) = turned.run(make_workshop())
    assert len(calls) == 3
    grain = search.grain
    dense = search.dense(0)
    scored = {n: m for n, m in dense.mask.items() if n in grain.scored}
    of_units = grain.score(falling(scored), dense.mask)
    for name, alive in grain.alive(ticket.training.mask).items():
        order = of_units[name].flatten().argsort(descending=True)
        kept = alive.flatten()[order]
        n, left = len(kept), int(kept.sum())
        # The best went in the last step, the worst in the first; the middle is left.
        assert left < n and not bool(kept[0]) and not bool(kept[-1])
        first, last = int(kept.int().argmax()), n - 1 - int(kept.flip(0).int().argmax())
        assert last - first + 1 == left
