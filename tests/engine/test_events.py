"""Events: they see everything, change nothing, or change exactly what they say."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lth.engine.batches import Batches
from lth.engine.loop import Loop
from lth.event.dead_units import DeadUnits
from lth.event.evaluate import Evaluate
from lth.event.gradient_norm import GradientNorm
from lth.event.keep import Keep
from lth.event.progress import Progress
from lth.model.resnet import ResNet20
from lth.protocol import Change, Moment, Record, Result, Stop
from lth.training import Training
from lth.types import TrainState

Make = Callable[..., Training]
Train = Callable[..., Result]


@dataclasses.dataclass(frozen=True)
class At:
    """Does something at some steps."""

    at: tuple[int, ...]
    do: Any

    def steps(self, training: Training) -> Iterable[int]:
        return self.at

    def __call__(self, moment: Moment, record: Record) -> Any:
        return self.do(moment)


@dataclasses.dataclass(frozen=True)
class PruneHalf:
    """Prunes the first rows of fc1 half-way, with the optimizer's slots or afresh."""

    at: int = 6
    slots: bool = True

    def steps(self, training: Training) -> Iterable[int]:
        return [self.at]

    def __call__(self, moment: Moment, record: Record) -> Change:
        mask = {n: m.clone() for n, m in moment.mask.items()}
        mask["fc1.weight"][:5] = False
        return Change(state=moment.state(optimizer=self.slots), mask=mask)


def equal(a: TrainState, b: TrainState) -> bool:
    parts = [(a.weights, b.weights), (a.buffers, b.buffers)]
    return all(x.keys() == y.keys() and all(torch.equal(x[n], y[n]) for n in x) for x, y in parts)


def test_events_happen_at_their_steps_in_their_order(make_training: Make, train: Train) -> None:
    seen: list[tuple[str, int]] = []

    def note(name: str) -> Any:
        return lambda moment: seen.append((name, moment.step))

    result = train(
        make_training(first_step=3, steps=9),
        At((3, 5, 9), note("a")),
        At((5, 4, 9), note("b")),
        At((0, 2, 10, 99), note("never")),
    )
    expected = [("a", 3), ("b", 4), ("a", 5), ("b", 5), ("a", 9), ("b", 9)]
    assert seen == expected
    assert result.end.step == 9
    assert result.record.status == "done"


def test_no_event_prolongs_a_training(make_training: Make, train: Train) -> None:
    training = make_training()
    late = train(training, Keep(at=frozenset({4, 13, 400})))
    assert late.end.step == 12
    assert set(late.record.states) == {"4"}
    assert equal(late.end, train(training).end)


@pytest.mark.parametrize("net", ["dropout", "batchnorm"])
def test_watching_changes_nothing(
    net: str,
    make_training: Make,
    make_search: Callable[..., Any],
    train: Train,
    Perceptron: type[nn.Module],
    TinyBatchNorm: type[nn.Module],
) -> None:
    """Probes, evaluations, kept states and a careless guest: the end has the same bits."""
    if net == "dropout":
        model = functools.partial(Perceptron, dropout=0.5)
        training = make_training(density=0.4, model=model)
        probes: list[Any] = [DeadUnits(), GradientNorm()]
    else:
        training = make_search().dense(0)
        probes = [GradientNorm()]

    def guest(moment: Moment) -> None:
        torch.rand(3)  # draws from the global generator
        torch.manual_seed(0)
        moment.gradient()
        for tensor in moment.state(optimizer=True).weights.values():
            tensor.fill_(9)  # copies
        moment.evaluate(moment.training.task.test)

    watched = train(
        training,
        Evaluate(test_curve=True, keep=True),
        Keep(at=frozenset({2, 5}), optimizer=True),
        *probes,
        Progress(show=lambda *row: None),
        At(tuple(range(training.last_step + 1)), guest),
    )
    bare = train(training)
    assert equal(watched.end, bare.end)
    assert set(watched.record.probes) == {"gradient_norm"} | (
        {"dead_units"} if net == "dropout" else set()
    )


def test_the_module_trains_on_after_an_evaluation(
    make_search: Callable[..., Any], train: Train
) -> None:
    modes = []

    def look(moment: Moment) -> None:
        modes.append(moment.module().training)
        moment.evaluate(moment.training.task.test)
        modes.append(moment.module().training)

    train(make_search().dense(0), At((0, 4), look))
    assert modes == [True] * 4


def test_evaluation_is_per_example_in_eval_mode(
    make_search: Callable[..., Any], train: Train
) -> None:
    """Against the stored state in a module of its own: BatchNorm uses its running statistics."""
    seen: dict[str, Any] = {}

    def look(moment: Moment) -> None:
        seen["got"] = moment.evaluate(moment.training.task.test)
        seen["state"] = moment.state()

    training = make_search().dense(0)
    train(training, At((7,), look))
    task = training.task
    net = training.model(input_shape=task.input_shape, num_classes=task.num_classes)
    net.load_state_dict({**seen["state"].weights, **seen["state"].buffers})
    x, y = task.test.gather(torch.arange(24))
    with torch.no_grad():
        logits = net.eval()(x)
    losses, classes = seen["got"]
    assert (losses.dtype, losses.shape, classes.dtype) == (torch.float32, (24,), torch.int64)
    torch.testing.assert_close(losses, F.cross_entropy(logits, y, reduction="none"))
    assert torch.equal(classes, logits.argmax(1))


@pytest.mark.parametrize("channels_last", [False, True])
def test_another_state_is_evaluated_as_if_it_were_live(
    channels_last: bool, make_training: Make, train: Train, tiny_task: Any
) -> None:
    task = tiny_task(shape=(3, 8, 8))
    training = make_training(task=task, model=functools.partial(ResNet20, width=4))
    kept: dict[int, tuple[TrainState, Any]] = {}

    def note(moment: Moment) -> None:
        if moment.step == 4:
            kept[4] = moment.state(), moment.evaluate(task.test)
        else:
            before, live = moment.state(), moment.evaluate(task.test)
            again = moment.evaluate(task.test, kept[4][0])
            assert torch.equal(again[0], kept[4][1][0]) and torch.equal(again[1], kept[4][1][1])
            assert not torch.equal(again[0], live[0])
            assert equal(moment.state(), before)

    train(training, At((4, 9), note), engine=Loop(channels_last=channels_last))
    assert kept


def test_the_gradient_is_dense_and_that_of_the_next_batch(
    make_training: Make, train: Train
) -> None:
    seen: dict[str, Any] = {}

    def look(moment: Moment) -> None:
        seen["gradient"] = moment.gradient()
        seen["again"] = moment.gradient()
        seen["state"] = moment.state()

    training = make_training(density=0.4, label_smoothing=0.1)
    train(training, At((6,), look))
    net = training.model(input_shape=(1, 6, 6), num_classes=3)
    net.load_state_dict(seen["state"].weights)
    x, y = Batches(training, torch.device("cpu"))(6)
    F.cross_entropy(net(x), y, label_smoothing=0.1).backward()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(seen["gradient"][name], parameter.grad)
        assert torch.equal(seen["gradient"][name], seen["again"][name])
    dead = ~training.mask["fc2.weight"]
    assert bool(seen["gradient"]["fc2.weight"][dead].any())


def test_the_gradient_has_the_dropout_of_the_next_update(
    make_training: Make, train: Train, Perceptron: type[nn.Module]
) -> None:
    seen: dict[str, Any] = {}

    def look(moment: Moment) -> None:
        seen[f"{moment.step}"] = moment.state()
        if moment.step == 6:
            seen["gradient"] = moment.gradient()

    sgd = functools.partial(torch.optim.SGD, lr=0.5)
    model = functools.partial(Perceptron, dropout=0.5)
    train(make_training(model=model, optimizer=sgd), At((6, 7), look))
    for name, before in seen["6"].weights.items():
        after = before - 0.5 * seen["gradient"][name]
        torch.testing.assert_close(after, seen["7"].weights[name])


# Changes


@pytest.mark.parametrize("slots", [True, False])
def test_an_event_of_the_training_may_prune(slots: bool, make_training: Make, train: Train) -> None:
    event = PruneHalf(slots=slots)
    training = make_training(events=(event,))
    seen: list[tuple[int, int]] = []

    def look(moment: Moment) -> None:
        state = moment.state(optimizer=True)
        assert state.optimizer is not None
        for name, kept in moment.mask.items():
            dead = state.weights[name][~kept]
            slot = state.optimizer.get(f"{name}/momentum_buffer", torch.zeros(kept.shape))
            assert not bool(dead.any() or dead.signbit().any() or slot[~kept].any())
        seen.append((moment.step, int(moment.mask["fc1.weight"].sum())))

    result = train(training, At(tuple(range(13)), look))
    assert seen == [(s, 360 if s < 6 else 180) for s in range(13)]
    assert int(result.mask["fc1.weight"].sum()) == 180
    assert bool(training.mask["fc1.weight"].all())  # the Training itself is a value
    assert bool((result.end.weights["fc1.weight"][5:] != 0).any())


def test_momentum_is_lost_only_where_a_change_leaves_it_out(
    make_training: Make, train: Train
) -> None:
    """A change to the same state and mask, slots included, is no change."""

    def same(slots: bool) -> At:
        return At((6,), lambda m: Change(state=m.state(optimizer=slots), mask=m.mask))

    plain = train(make_training(density=0.4)).end

    def changed(event: At) -> TrainState:
        training = make_training(density=0.4)
        object.__setattr__(training, "events", (event,))  # a lambda has no canonical name
        return train(training).end

    assert equal(changed(same(True)), plain)
    assert not equal(changed(same(False)), plain)


def test_a_change_enters_the_id_and_the_store(
    make_training: Make, make_workshop: Callable[..., Any]
) -> None:
    plain, changing = make_training(), make_training(events=(PruneHalf(),))
    assert plain.id != changing.id != make_training(events=(PruneHalf(at=7),)).id
    (stored,) = make_workshop().complete([changing])
    assert int(stored.mask("start")["fc1.weight"].sum()) == 360
    assert int(stored.mask("end")["fc1.weight"].sum()) == 180
    assert not bool(stored.state("end").weights["fc1.weight"][:5].any())


def test_an_observer_may_not_change_anything(make_training: Make, train: Train) -> None:
    message = "PruneHalf changes the training, so it belongs into its events"
    with pytest.raises(ValueError, match=message):
        train(make_training(), PruneHalf())
    # Not even one that equals an event of the training: it would act a second time.
    with pytest.raises(ValueError, match=message):
        train(make_training(events=(PruneHalf(),)), PruneHalf())


def test_stop_ends_a_training_at_its_step(make_training: Make, train: Train) -> None:
    late: list[int] = []
    result = train(
        make_training(),
        Evaluate(),
        At((6,), lambda moment: Stop()),
        At((6, 7), lambda moment: late.append(moment.step)),
    )
    assert result.end.step == 6
    assert result.record.status == "stopped"
    # Evaluated where it was stopped, as at any end.
    assert [row["step"] for row in result.record.metrics] == [0, 4, 6]
    assert [("test_loss" in row) for row in result.record.metrics][-1]
    assert late == []
    whole = train(make_training(), Keep(at=frozenset({6})))
    assert equal(result.end, whole.record.states["6"])
