"""Supermasks: chances by hand, draws from their stream, and the ticket within its budget."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lth import mask as masks
from lth.engine.loop import Loop
from lth.event.checkpoint import Checkpoint, Interval
from lth.event.evaluate import Evaluate
from lth.finder.frozen import frozen_name
from lth.finder.supermask import Bernoulli, Supermask
from lth.level import Row
from lth.protocol import Result, Resume
from lth.runtime import Runtime
from lth.search import Search
from lth.step import Step
from lth.training import Training

Make = Callable[..., Any]


def run(training: Training, *observers: Any, resume: Resume | None = None) -> Result:
    (result,) = Loop().train(
        [training],
        events=lambda t: observers,
        resume=lambda t: resume,
        runtime=Runtime(device="cpu"),
    )
    return result


def level_one(
    make_search: Make, make_workshop: Make, finder: Supermask, **changes: Any
) -> tuple[Search, dict[str, Row]]:
    search = make_search(levels=1, finder=finder, **changes)
    _, rows = search.run(make_workshop())
    return search, {r.variant: r for r in rows}


@pytest.fixture(scope="module")
def found(make_search: Make, make_workshop: Make) -> tuple[Search, dict[str, Row]]:
    return level_one(make_search, make_workshop, Supermask(lr=10.0))


def test_the_gradient_passes_through_the_chance() -> None:
    w = torch.tensor([2.0, -3.0, 1.0])
    scores = torch.tensor([0.0, 50.0, -50.0], requires_grad=True)
    alive = torch.ones(3, dtype=torch.bool)
    h = Bernoulli()("fc", scores, alive, train=True)
    assert h[0].item() in (0.0, 1.0) and h[1:].tolist() == [1.0, 0.0]
    (w * h).sum().backward()
    # sigmoid'(0) = 1/4, and nothing of it where the chance is 0 or 1.
    assert scores.grad is not None
    assert scores.grad.tolist() == pytest.approx([0.5, 0.0, 0.0])


def test_chances_are_met() -> None:
    scores = torch.full((40_000,), -1.0986123)  # sigmoid = 1/4
    torch.manual_seed(0)
    drawn = Bernoulli()("fc", scores, torch.ones(40_000, dtype=torch.bool), train=True)
    assert float(drawn.mean()) == pytest.approx(0.25, abs=0.01)


def test_evaluation_rounds_and_draws_nothing() -> None:
    scores = torch.tensor([0.1, -0.1, 0.0, 3.0])
    alive = torch.tensor([True, True, True, False])
    before = torch.get_rng_state()
    assert Bernoulli()("fc", scores, alive, train=False).tolist() == [1.0, 0.0, 0.0, 0.0]
    assert torch.equal(torch.get_rng_state(), before)


def test_rescaling_by_hand() -> None:
    scores = torch.tensor([1.0, -1.0, 2.0, -1.0], requires_grad=True)
    alive = torch.ones(4, dtype=torch.bool)
    h = Bernoulli(rescale=True)("fc", scores, alive, train=False)
    assert h.tolist() == [2.0, 0.0, 2.0, 0.0]  # 4 weights, 2 take part
    c = torch.tensor([1.0, 5.0, 3.0, 0.0])
    (c * h).sum().backward()
    # L = n sum(c m) / sum(m): dL/dm_i = 4/2 (c_i - 4/2), times sigmoid'(s_i).
    slope = scores.detach().sigmoid() * (1 - scores.detach().sigmoid())
    assert scores.grad is not None
    torch.testing.assert_close(scores.grad, 2 * (c - 2) * slope)
    nothing = Bernoulli(rescale=True)("fc", -torch.ones(3), alive[:3], train=False)
    assert nothing.tolist() == [0.0, 0.0, 0.0]


def test_draws_come_from_the_stream_module(found: tuple[Search, dict[str, Row]]) -> None:
    training = found[1]["supermask"].training
    torch.manual_seed(1)
    first = run(training)
    torch.manual_seed(2)
    second = run(training)
    other = run(training.replace(streams={**training.streams, "module": ("module", 7, 1)}))
    name = "conv2.weight"
    a, b, c = (r.record.states["scores"].weights[name] for r in (first, second, other))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_its_own_result_is_rounded_and_the_ticket_is_cut_to_the_budget(
    found: tuple[Search, dict[str, Row]], make_search: Make, make_workshop: Make
) -> None:
    search, rows = found
    own, ticket = rows["supermask"].stored, rows["ticket"].training
    scores = own.state("scores").weights
    _, (usual,) = make_search(levels=1).run(make_workshop())
    for name, kept in own.mask().items():
        assert torch.equal(kept, scores[name] > 0)
        assert torch.equal(
            own.state("end").buffers[frozen_name(name)], search.theta_0(0).weights[name]
        )
        count = int(usual.training.mask[name].sum())  # layer-wise rates
        whole = {"": torch.ones_like(kept)}
        assert torch.equal(ticket.mask[name], masks.keep_top({"": scores[name]}, whole, count)[""])
    assert own.done["density"] == masks.density(own.mask()) != masks.density(ticket.mask)


def test_excluded_layers_take_part_whole(make_search: Make, make_workshop: Make) -> None:
    _, rows = level_one(make_search, make_workshop, Supermask(lr=10.0), exclude=["output"])
    own = rows["supermask"].stored
    assert bool(own.mask()["fc.weight"].all())
    assert not bool(own.mask()["conv2.weight"].all())
    assert bool(rows["ticket"].training.mask["fc.weight"].all())


def test_options_change_what_they_say(make_search: Make, make_workshop: Make) -> None:
    made = {}
    for finder in (Supermask(), Supermask(initial=1.5), Supermask(rescale=True)):
        _, rows = level_one(make_search, make_workshop, finder)
        made[finder] = rows["supermask"].training
    plain, high, scaled = made.values()
    assert bool((plain.start.weights["fc.weight"] == 0).all())
    assert bool((high.start.weights["fc.weight"] == 1.5).all())
    assert len({t.id for t in made.values()}) == 3
    assert torch.equal(plain.start.weights["fc.weight"], scaled.start.weights["fc.weight"])
    with pytest.raises(ValueError, match="lr: got -1, allowed: above 0"):
        Supermask(lr=-1)


def test_it_resumes_bit_for_bit(found: tuple[Search, dict[str, Row]]) -> None:
    training = found[1]["supermask"].training
    first: list[Resume] = []
    checkpoint = Checkpoint(
        interval=Interval(step=Step(iterations=6)),
        save=lambda t, resume: first.append(copy.deepcopy(resume)),
    )
    whole = run(training, Evaluate(), checkpoint)
    again = run(training, Evaluate(), resume=first[0])
    assert str(whole.record.metrics) == str(again.record.metrics)
    for name in whole.mask:
        assert torch.equal(whole.mask[name], again.mask[name])
