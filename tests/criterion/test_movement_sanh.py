"""Movement pruning: the sums by hand, and a training that does not notice being watched."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from lth import mask as masks
from lth.build import build
from lth.complete import Watch
from lth.config import ConfigError
from lth.criterion.movement_sanh import MovementSanh
from lth.engine.auto import Auto
from lth.engine.loop import Loop
from lth.engine.mlp import MLP
from lth.event.checkpoint import Checkpoint, Interval
from lth.event.evaluate import Evaluate
from lth.event.gradient_norm import GradientNorm
from lth.event.movement import Movement
from lth.finder.early_bird import EarlyBird
from lth.history import History
from lth.paths import conf_dir
from lth.prepare import prepare, read_data
from lth.protocol import Engine, Result, Resume
from lth.prune import CriterionError
from lth.run import register
from lth.runtime import Runtime
from lth.step import Step
from lth.stream import generator
from lth.training import Training

Make = Callable[..., Any]


def trained(
    training: Training, *observers: Any, resume: Resume | None = None, engine: Engine | None = None
) -> Result:
    (result,) = (engine or Loop()).train(
        [training],
        events=lambda t: observers,
        resume=lambda t: resume,
        runtime=Runtime(device="cpu"),
    )
    return result


class Perceptron(nn.Sequential):
    def __init__(self, *, input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(36, 5), nn.ReLU(), nn.Linear(5, num_classes))


def half(make_search: Make, **changes: Any) -> Training:
    dense: Training = make_search(**changes).dense(0)
    stream = torch.Generator().manual_seed(0)
    mask = {n: torch.rand(m.shape, generator=stream) < 0.6 for n, m in dense.mask.items()}
    return dense.replace(mask=mask)


def by_hand(training: Training, steps: int) -> dict[str, Tensor]:
    """-sum of w g over plain SGD steps, for survivors."""
    task, mask = training.task, training.mask
    net = training.model(input_shape=task.input_shape, num_classes=task.num_classes)
    net.load_state_dict({**training.start.weights, **training.start.buffers})
    weights = dict(net.named_parameters())
    sums = {n: torch.zeros(m.shape, dtype=torch.float64) for n, m in mask.items()}
    order = torch.randperm(
        len(task.train), generator=generator(*training.streams["order"], "epoch", 0)
    )
    for step in range(steps):
        x, y = task.train.gather(order[step * 16 : (step + 1) * 16])
        gradients = torch.autograd.grad(F.cross_entropy(net(x), y), list(weights.values()))
        with torch.no_grad():
            for (name, w), g in zip(weights.items(), gradients, strict=True):
                if name in mask:
                    sums[name] -= w.double() * g.double()
                    g = g * mask[name]
                w -= 0.1 * training.learning_rate(step) * g
    return sums


@pytest.mark.parametrize("model", ["convolutional", "perceptron"])
def test_three_steps_of_sgd_by_hand(model: str, make_search: Make) -> None:
    changes: dict[str, Any] = {"model": Perceptron} if model == "perceptron" else {}
    plain = functools.partial(torch.optim.SGD, lr=0.1)
    training = half(make_search, optimizer=plain, **changes).replace(last_step=3)
    engines: list[Engine] = [Loop(), *([MLP()] if model == "perceptron" else [])]
    expected = by_hand(training, 3)
    for engine in engines:
        kept = trained(training, Evaluate(), Movement(), engine=engine).record.states["movement"]
        assert kept.step == 3 and kept.buffers == {}
        for name, mask in training.mask.items():
            torch.testing.assert_close(
                kept.weights[name].double(), expected[name], rtol=1e-4, atol=1e-7
            )
            assert bool((kept.weights[name][~mask] == 0).all())


def test_at_says_up_to_where(make_search: Make) -> None:
    training = half(make_search, optimizer=functools.partial(torch.optim.SGD, lr=0.1))
    record = trained(
        training, Evaluate(), Movement(at=2), Movement(at="early_stop"), Movement(at=0)
    ).record
    expected = by_hand(training, 2)["conv2.weight"]
    found = record.states["movement_2"].weights["conv2.weight"].double()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
    assert record.early_stop_step not in (None, 0)
    assert record.states["movement_early_stop"].step == record.early_stop_step
    whole = trained(training.replace(last_step=record.early_stop_step), Evaluate(), Movement())
    assert torch.equal(
        record.states["movement_early_stop"].weights["conv2.weight"],
        whole.record.states["movement"].weights["conv2.weight"],
    )
    assert not record.states["movement_0"].weights["conv2.weight"].any()


@pytest.mark.parametrize("model", ["convolutional", "perceptron"])
def test_watching_changes_nothing(model: str, make_search: Make) -> None:
    changes: dict[str, Any] = {"model": Perceptron} if model == "perceptron" else {}
    training = half(make_search, **changes)
    bare = trained(training, Evaluate(), engine=Auto())
    watched = trained(training, Evaluate(), Movement(), engine=Auto())
    assert str(bare.record.metrics) == str(watched.record.metrics)
    for name, value in bare.end.weights.items():
        assert torch.equal(value, watched.end.weights[name])
    for name, value in bare.end.buffers.items():
        assert torch.equal(value, watched.end.buffers[name])


@pytest.mark.parametrize("at", [3, 8])
def test_it_resumes_bit_for_bit(at: int, make_search: Make) -> None:
    training = half(make_search)
    first: list[Resume] = []
    checkpoint = Checkpoint(
        interval=Interval(step=Step(iterations=at)),
        save=lambda t, resume: first.append(copy.deepcopy(resume)),
    )
    events = (Evaluate(), Movement(), Movement(at="early_stop"))
    whole = trained(training, *events, checkpoint)
    again = trained(training, *events, resume=first[0])
    for when in ("movement", "movement_early_stop"):
        for name, value in whole.record.states[when].weights.items():
            assert torch.equal(value, again.record.states[when].weights[name])


def history_of(row: Any, search: Any) -> History:
    return search.history(row.stored, row.stored, 0)  # type: ignore[no-any-return]


@pytest.mark.parametrize("prune_at", ["end", "early_stop", 6])
def test_a_search_prunes_by_it(prune_at: str | int, make_search: Make, make_workshop: Make) -> None:
    search = make_search(criterion=MovementSanh(), prune_at=prune_at, levels=2)
    (root,), (ticket,), (second,) = search.run(make_workshop())
    sums = history_of(root, search).watched(Movement(at=prune_at).name).weights
    for name, kept in ticket.training.mask.items():
        whole = {"": torch.ones_like(kept)}
        best = masks.keep_top({"": sums[name]}, whole, int(kept.sum()))[""]
        assert torch.equal(kept, best)
    assert masks.nested(second.training.mask, ticket.training.mask)
    assert "movement" in "".join(ticket.stored.kept())


def test_a_parent_stored_without_is_replayed(make_search: Make, make_workshop: Make) -> None:
    workshop = make_workshop()
    (plain,), _ = make_search(levels=1).run(workshop)
    said: list[str] = []
    workshop.say = said.append
    (root,), (ticket,) = make_search(levels=1, criterion=MovementSanh()).run(workshop)
    assert root.stored.id == plain.stored.id
    assert root.stored.done["digests"] == plain.stored.done["digests"]
    assert sum("replaying" in s for s in said) == 1
    _, (at_once,) = make_search(levels=1, criterion=MovementSanh()).run(make_workshop())
    assert ticket.training.id == at_once.training.id
    # Replayed for something else, it is still there; and nothing is replayed twice.
    probes = {"gradient_norm": GradientNorm()}
    (again,) = workshop.complete([root.training], Watch(probes=probes, keep=frozenset({3})))
    assert {"movement", "3"} <= again.kept() and again.probes() == {"gradient_norm"}
    said.clear()
    list(make_search(levels=1, criterion=MovementSanh()).run(workshop))
    assert said == []


def test_runs_that_score_other_states_leave_each_other_s(
    make_search: Make, make_workshop: Make
) -> None:
    workshop = make_workshop()
    for prune_at in ("end", 6, "early_stop"):
        list(make_search(levels=1, criterion=MovementSanh(), prune_at=prune_at).run(workshop))
    said: list[str] = []
    workshop.say = said.append
    for prune_at in ("end", 6, "early_stop"):
        list(make_search(levels=1, criterion=MovementSanh(), prune_at=prune_at).run(workshop))
    assert said == []


def test_it_goes_with_a_finder_and_with_fill(make_search: Make, make_workshop: Make) -> None:
    finder = EarlyBird(every="1it", window=2, threshold=1.0)
    search = make_search(levels=1, criterion=MovementSanh(), finder=finder)
    _, rows = search.run(make_workshop())
    assert {r.variant for r in rows} == {"early_bird", "ticket"}
    search = make_search(levels=2, criterion=MovementSanh(), fill="initial")
    _, (ticket,), _ = search.run(make_workshop())
    sums = ticket.stored.state("movement").weights
    for name, kept in ticket.training.mask.items():
        assert bool((sums[name][~kept] == 0).all())


def test_a_run_that_scores_the_start_is_refused(tmp_path: Path) -> None:
    register()
    settings = ["criterion=movement_sanh", "dataset=synthetic", "sink=[]", "device=cpu"]
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        config = compose("run", overrides=[*settings, "prune_at=0it", f"store.root={tmp_path}"])
    run = build(config)
    with pytest.raises(ConfigError, match="prune_at: got 0it, allowed: after 0it .the criterion"):
        prepare(run, read_data(run))


def test_nothing_moves_before_the_first_update(make_search: Make, make_workshop: Make) -> None:
    search = make_search(levels=1, criterion=MovementSanh(), prune_at=0)
    with pytest.raises(CriterionError, match="movement_sanh: got a state that no update came befo"):
        list(search.run(make_workshop()))
