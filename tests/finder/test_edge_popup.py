"""Edge-popup: scores by hand, weights that never move, and what a search makes of them."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lth import mask as masks
from lth.complete import Watch
from lth.engine.auto import Auto
from lth.engine.loop import Loop
from lth.event.checkpoint import Checkpoint, Interval
from lth.event.evaluate import Evaluate
from lth.event.gradient_norm import GradientNorm
from lth.finder.edge_popup import EdgePopup, TopScores, top
from lth.finder.frozen import Frozen, alive_name, frozen_name
from lth.level import Row
from lth.model.lenet_300_100 import LeNet300100
from lth.protocol import Result, Resume
from lth.rewind.matrix import Matrix
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
    make_search: Make, make_workshop: Make, finder: Any = None, **changes: Any
) -> tuple[Search, dict[str, Row]]:
    search = make_search(levels=1, finder=finder or EdgePopup(), **changes)
    _, rows = search.run(make_workshop())
    return search, {r.variant: r for r in rows}


@pytest.fixture(scope="module")
def found(make_search: Make, make_workshop: Make) -> tuple[Search, dict[str, Row]]:
    return level_one(make_search, make_workshop)


@pytest.mark.parametrize("seed", range(4))
def test_the_top_of_a_layer_is_what_keep_top_keeps(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    alive = torch.rand(6, 5, generator=generator) < 0.6
    # Few values, zeros among them: most ranks are ties.
    magnitude = torch.randint(0, 3, (6, 5), generator=generator) / 2
    for count in range(int(alive.sum()) + 1):
        usual = masks.keep_top({"": magnitude}, {"": alive}, count)[""]
        assert torch.equal(top(magnitude, alive, count), usual)


def test_scores_get_the_straight_through_gradient_by_hand() -> None:
    w = torch.tensor([2.0, -3.0, 1.0, 4.0])
    x = torch.tensor([1.0, 2.0, 3.0, -1.0])
    scores = torch.tensor([0.5, -0.7, 0.1, -0.05], requires_grad=True)
    alive = torch.tensor([True, True, True, True])
    h = TopScores(counts=(("fc", 2),))("fc", scores, alive, train=True)
    assert h.tolist() == [1.0, 1.0, 0.0, 0.0]
    (w * h * x).sum().backward()
    # dL/dh = w x = [2, -6, 3, -4], times sign(s); those that were not chosen too.
    assert scores.grad is not None
    assert scores.grad.tolist() == [2.0, 6.0, 3.0, 4.0]


def test_what_may_not_be_chosen_never_is() -> None:
    choice = TopScores(counts=(("fc", 2),))
    scores = torch.tensor([9.0, 0.0, 0.0, 0.0])
    alive = torch.tensor([False, False, True, True])
    assert choice.mask("fc", scores, alive).tolist() == [False, False, True, True]


def test_one_step_by_hand(TinyBatchNorm: type[nn.Module], tiny_task: Make) -> None:
    """The whole network's gradient by scores is w times that by the effective weight."""
    task = tiny_task()
    inner = TinyBatchNorm(input_shape=task.input_shape, num_classes=task.num_classes)
    plain = copy.deepcopy(inner)
    counts = {"conv1.weight": 9, "conv2.weight": 100, "fc.weight": 5}
    model = Frozen(model=lambda **shapes: inner, choice=TopScores(counts=tuple(counts.items())))(
        input_shape=task.input_shape, num_classes=task.num_classes
    )
    scores = dict(model.named_parameters())
    assert scores.keys() == counts.keys()
    weights = dict(plain.named_parameters())
    generator = torch.Generator().manual_seed(0)
    chosen = {}
    with torch.no_grad():
        for name, s in scores.items():
            s.copy_(torch.randn(s.shape, generator=generator))
            full = {"": torch.ones_like(s, dtype=torch.bool)}
            chosen[name] = masks.keep_top({"": s.abs()}, full, counts[name])[""]
            weights[name].mul_(chosen[name])
    x, y = task.train.gather(torch.arange(16))
    for net in (model, plain):
        F.cross_entropy(net(x), y).backward()
    frozen = dict(model.named_buffers())
    for name, s in scores.items():
        assert s.grad is not None and weights[name].grad is not None
        expected = weights[name].grad * frozen[frozen_name(name)] * s.sign()
        torch.testing.assert_close(s.grad, expected, rtol=0, atol=0)
    # Running statistics went on alike, and so does evaluation.
    assert torch.equal(frozen["norm1.running_mean"], plain.get_buffer("norm1.running_mean"))
    assert torch.equal(model.eval()(x), plain.eval()(x))
    assert not inner.training


def test_weights_stay_theta_0_and_scores_move(found: tuple[Search, dict[str, Row]]) -> None:
    search, rows = found
    finding, stored = rows["edge_popup"].training, rows["edge_popup"].stored
    theta, end = search.theta_0(0), stored.state("end")
    names = list(search.layers)
    for name in names:
        assert torch.equal(end.buffers[frozen_name(name)], theta.weights[name])
    for name in theta.weights.keys() - set(names):
        assert torch.equal(end.buffers[name], theta.weights[name])
    assert end.weights.keys() == set(names)
    scores = stored.state("scores").weights
    for name in names:
        assert not torch.equal(scores[name], finding.start.weights[name])
        bound = finding.mask[name][0].numel() ** -0.5
        assert finding.start.weights[name].abs().max() <= bound
        assert finding.start.weights[name].abs().max() > bound * 0.8
        assert bool((scores[name] != 0).all())  # all are stored, whatever was chosen
    assert not torch.equal(end.buffers["norm1.running_mean"], theta.buffers["norm1.running_mean"])


def test_its_own_result_is_the_untrained_subnetwork(
    found: tuple[Search, dict[str, Row]],
) -> None:
    search, rows = found
    stored, ticket = rows["edge_popup"].stored, rows["ticket"].training
    mask, end = stored.mask(), stored.state("end")
    scores = stored.state("scores").weights
    for name, kept in mask.items():
        whole = {"": torch.ones_like(kept)}
        assert torch.equal(
            kept, masks.keep_top({"": scores[name].abs()}, whole, int(kept.sum()))[""]
        )
        assert torch.equal(kept, end.buffers[alive_name(name)])
    task, theta = search.tasks[0], search.theta_0(0)
    net = search.model(input_shape=task.input_shape, num_classes=task.num_classes)
    weights = masks.apply(theta.weights, mask)
    statistics = {n: b for n, b in end.buffers.items() if n in theta.buffers}
    net.load_state_dict({**weights, **statistics})
    with torch.no_grad():
        x, y = task.test.gather(torch.arange(len(task.test)))
        accuracy = float((net.eval()(x).argmax(1) == y).double().mean())
    assert stored.done["final"]["test_accuracy"] == accuracy
    assert stored.done["density"] == masks.density(ticket.mask)


def test_the_ticket_is_its_mask_rewound_within_the_level_s_budget(
    found: tuple[Search, dict[str, Row]], make_search: Make, make_workshop: Make
) -> None:
    search, rows = found
    assert set(rows) == {"edge_popup", "ticket"}
    ticket, row = rows["ticket"].training, rows["edge_popup"]
    plain = make_search(levels=1)
    _, (usual,) = plain.run(make_workshop())
    for name, kept in ticket.mask.items():
        assert torch.equal(kept, row.stored.mask()[name])
        assert int(kept.sum()) == int(usual.training.mask[name].sum())
        start = usual.stored.ticket().start  # theta_k, under another mask
        both = kept & usual.training.mask[name]
        assert torch.equal(ticket.start.weights[name][both], start.weights[name][both])
    assert ticket.events == () and ticket.model is search.model
    assert (row.training.first_step, row.training.last_step) == (0, search.train_steps)
    # The dense network told the budget, then all T updates trained the scores.
    assert rows["ticket"].search_steps == 14 + 14


def test_levels_nest_and_excluded_layers_stay_whole(make_search: Make, make_workshop: Make) -> None:
    search = make_search(levels=2, finder=EdgePopup(), exclude=["output"])
    _, first, second = search.run(make_workshop())
    one, two = first[-1].training.mask, second[-1].training.mask
    assert masks.nested(two, one) and masks.remaining(two) < masks.remaining(one)
    assert bool(two["fc.weight"].all())


def test_final_weights_are_the_parent_s(make_search: Make, make_workshop: Make) -> None:
    _, rows = level_one(make_search, make_workshop, rewind=Matrix(weights="final"), rewind_step=0)
    ticket = rows["ticket"].training
    dense = make_search(levels=0)
    ((root,),) = dense.run(make_workshop())
    end = root.stored.state("end")
    for name, kept in ticket.mask.items():
        assert torch.equal(ticket.start.weights[name], end.weights[name] * kept)


def test_the_base_rate_of_scores_may_be_their_own(
    make_search: Make, make_workshop: Make, watch_updates: Make
) -> None:
    rates = {}
    for lr in (None, 7.0):
        _, rows = level_one(make_search, make_workshop, EdgePopup(lr=lr))
        with watch_updates() as seen:
            run(rows["edge_popup"].training)
        rates[lr] = seen.rates
    assert rates[7.0] == pytest.approx([70 * r for r in rates[None]])


def test_it_resumes_bit_for_bit(found: tuple[Search, dict[str, Row]]) -> None:
    training = found[1]["edge_popup"].training
    first: list[Resume] = []
    checkpoint = Checkpoint(
        interval=Interval(step=Step(iterations=6)),
        save=lambda t, resume: first.append(copy.deepcopy(resume)),
    )
    whole = run(training, Evaluate(), checkpoint)
    again = run(training, Evaluate(), resume=first[0])
    assert str(whole.record.metrics) == str(again.record.metrics)
    for name in whole.end.weights:
        assert torch.equal(whole.end.weights[name], again.end.weights[name])
        assert torch.equal(whole.mask[name], again.mask[name])


def test_what_was_not_recorded_is_replayed(make_search: Make, make_workshop: Make) -> None:
    workshop = make_workshop()
    search = make_search(levels=1, finder=EdgePopup())
    _, rows = search.run(workshop)
    training = rows[0].training
    (kept,) = workshop.complete([training], Watch(keep=frozenset({3}), keep_optimizer=True))
    probes = {"gradient_norm": GradientNorm()}
    (probed,) = workshop.complete([training], Watch(probes=probes))
    assert {"3", "scores"} <= kept.kept() and {"3", "scores"} <= probed.kept()
    assert probed.probes() == {"gradient_norm"}
    assert probed.done["digests"] == rows[0].stored.done["digests"]


def test_the_loop_trains_it(tiny_task: Make, make_search: Make, make_workshop: Make) -> None:
    engine = Auto()
    _, rows = level_one(
        make_search,
        functools.partial(make_workshop, engine=engine),
        model=LeNet300100,
        rewind_step=0,
    )
    engines = {v: r.stored.done["numerics"]["engine"] for v, r in rows.items()}
    assert engines == {"edge_popup": "loop", "ticket": "mlp"}


def test_bf16_and_channels_last_compute_it_too(found: tuple[Search, dict[str, Row]]) -> None:
    training = found[1]["edge_popup"].training
    plain = run(training)
    (wide,) = Loop(channels_last=True).train(
        [training], events=lambda t: [], resume=lambda t: None, runtime=Runtime(device="cpu")
    )
    low = run(training.replace(precision="bf16"))
    for result in (wide, low):
        counts = {n: int(m.sum()) for n, m in result.mask.items()}
        assert counts == {n: int(m.sum()) for n, m in plain.mask.items()}


def test_a_fault_names_the_option() -> None:
    with pytest.raises(ValueError, match="lr: got 0, allowed: above 0, or null"):
        EdgePopup(lr=0)


def test_frozen_layers_that_share_a_name_with_tensors(tiny_task: Make) -> None:
    """A network that is one layer: its weight has no prefix."""

    def one(*, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        return nn.Linear(input_shape[-1], num_classes)

    model = Frozen(model=one, choice=TopScores(counts=(("weight", 4),)))
    net = model(input_shape=(1, 6, 6), num_classes=3)
    assert set(dict(net.named_parameters())) == {"weight"}
    assert set(dict(net.named_buffers())) == {"frozen", "alive", "bias"}
    out: Tensor = net(torch.ones(2, 6))
    assert out.shape == (2, 3)
