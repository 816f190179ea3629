"""The cohort engines against the reference: dense, packed, sparse and stacked, with events."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lth import mask as masks
from lth.engine.branches import CAPTURABLE, refused
from lth.engine.graph import Graph, draws_random
from lth.engine.loop import Loop
from lth.engine.mlp import MLP, linears, refusal
from lth.engine.stacked import Stacked
from lth.event.checkpoint import Checkpoint, Interval
from lth.event.dead_units import DeadUnits
from lth.event.evaluate import Evaluate
from lth.event.gradient_norm import GradientNorm
from lth.finder.dynamic_sparse import DropGrow
from lth.init.glorot_normal import GlorotNormal
from lth.lr.step import MultiStep
from lth.optimizer import ELEMENTWISE
from lth.protocol import Event, Result, Resume
from lth.runtime import Runtime
from lth.step import Step
from lth.training import LearningRate, Training, dense

Make = Callable[..., Training]
CPU = Runtime(device="cpu")


class Uncaptured(Graph):
    """The graph engine where there are no graphs: the same updates, not captured."""

    def refusal(self, training: Training, runtime: Runtime) -> str | None:
        return refused(training.optimizer)


ENGINES = {
    "dense": MLP(sparse_below=0.0),
    "sparse": MLP(sparse_below=1.0),
    "mlp": MLP(),
    "stacked": Stacked(cohort=3),
    "graph": Uncaptured(cohort=3),
}


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Any:
    """Every engine that trains cohorts, in every form."""
    return ENGINES[request.param]


class Perceptron(nn.Sequential):
    """36 inputs, hidden layers of 20 and 12 units, the second without a bias."""

    def __init__(self, *, input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(
            nn.Flatten(),
            nn.Linear(36, 20),
            nn.ReLU(),
            nn.Linear(20, 12, bias=False),
            nn.ReLU(),
            nn.Linear(12, num_classes),
        )


@pytest.fixture
def perceptron(tiny_task: Any) -> Make:
    """``perceptron(seed, density, **fields)``: 50 updates, warm-up, a drop of the rate.

    Those of a seed see the same data.
    """
    tasks = [tiny_task(seed=seed) for seed in range(4)]

    def make(seed: int = 0, density: float = 1.0, **changes: Any) -> Training:
        shape = LearningRate(shape=MultiStep(milestones=("30it",), gamma=0.5), total=50, warmup=5)
        training = dense(
            task=tasks[seed],
            model=Perceptron,
            init=GlorotNormal(),
            optimizer=functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=1e-3),
            learning_rate=shape,
            seed=seed,
            eval_every=10,
        )
        if density < 1:
            draw = torch.Generator().manual_seed(seed)
            scores = {n: torch.rand(m.shape, generator=draw) for n, m in training.mask.items()}
            count = round(density * masks.size(training.mask))
            training = training.replace(mask=masks.keep_top(scores, training.mask, count))
        return training.replace(**changes)

    return make


def run(
    engine: Any, *trainings: Training, events: Any = (), resume: Resume | None = None
) -> list[Result]:
    results = engine.train(
        list(trainings), events=lambda t: list(events), resume=lambda t: resume, runtime=CPU
    )
    place = {t.id: i for i, t in enumerate(trainings)}
    return sorted(results, key=lambda r: place[r.training.id])


def near(a: Result, b: Result, tolerance: float = 1e-5) -> None:
    for name, weight in a.end.weights.items():
        assert torch.allclose(weight, b.end.weights[name], atol=tolerance), name
    for name, kept in a.mask.items():
        assert bool((a.end.weights[name][~kept] == 0).all())
    for own, wanted in zip(a.record.metrics, b.record.metrics, strict=True):
        assert own == pytest.approx(wanted, abs=1e-4, nan_ok=True)


@pytest.mark.parametrize("density", [1.0, 0.5, 0.1, 0.02])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"grad_clip": 0.05},
        {"label_smoothing": 0.2},
        {"first_step": 7, "last_step": 44},
    ],
    ids=["plain", "clip", "smooth", "span"],
)
def test_it_agrees_with_the_loop(
    density: float, engine: Any, changes: dict[str, Any], perceptron: Make
) -> None:
    training = perceptron(density=density, **changes)
    (own,) = run(engine, training, events=[Evaluate()])
    (wanted,) = run(Loop(), training, events=[Evaluate()])
    near(own, wanted)
    assert own.record.status == "done"


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_every_elementwise_optimizer(name: str, engine: Any, perceptron: Make) -> None:
    optimizer = functools.partial(getattr(torch.optim, name), lr=1e-3)
    training = perceptron(density=0.2, optimizer=optimizer, last_step=20)
    if isinstance(engine, Graph) and name not in CAPTURABLE:
        with pytest.raises(ValueError, match=f"captures SGD, Adam, AdamW, not {name}"):
            run(engine, training)
        return
    (own,) = run(engine, training, events=[Evaluate()])
    (wanted,) = run(Loop(), training, events=[Evaluate()])
    near(own, wanted, tolerance=1e-4)


def test_a_mask_may_cover_biases(engine: Any, perceptron: Make) -> None:
    training = perceptron(density=0.3)
    bias = torch.arange(20) % 3 > 0
    training = training.replace(mask={**training.mask, "1.bias": bias})
    (own,) = run(engine, training, events=[Evaluate()])
    (wanted,) = run(Loop(), training, events=[Evaluate()])
    near(own, wanted)
    assert bool((own.end.weights["1.bias"][~bias] == 0).all())


@pytest.mark.parametrize("size", [1, 2, 9])
def test_numbers_do_not_depend_on_who_shares_the_cohort(
    size: int, engine: Any, perceptron: Make
) -> None:
    cohort = [
        perceptron(seed=i // 3, density=(1.0, 0.4, 0.03)[i % 3], grad_clip=0.5) for i in range(size)
    ]
    together = run(engine, *cohort, events=[Evaluate()])
    for training, shared in zip(cohort, together, strict=True):
        (alone,) = run(engine, training, events=[Evaluate()])
        for name, weight in alone.end.weights.items():
            assert torch.equal(weight, shared.end.weights[name])
        assert str(alone.record.metrics) == str(shared.record.metrics)


def test_cohorts_of_different_spans_and_rates(engine: Any, perceptron: Make) -> None:
    other = LearningRate(shape=MultiStep(milestones=(), gamma=0.5), total=50)
    cohort = [
        perceptron(seed=0),
        perceptron(seed=1, first_step=5),
        perceptron(seed=2, last_step=20),
        perceptron(seed=3, learning_rate=other),
    ]
    for own, training in zip(run(engine, *cohort, events=[Evaluate()]), cohort, strict=True):
        near(own, run(Loop(), training, events=[Evaluate()])[0])


def test_checkpoints_go_on_bit_for_bit_and_fit_the_loop(engine: Any, perceptron: Make) -> None:
    training = perceptron(
        density=0.2, optimizer=functools.partial(torch.optim.Adam, lr=1e-2), eval_every=7
    )
    saved: list[Resume] = []
    checkpoint = Checkpoint(
        interval=Interval(step=Step(iterations=23)),
        save=lambda t, resume: saved.append(copy.deepcopy(resume)),
    )
    (whole,) = run(engine, training, events=[Evaluate(), checkpoint])
    assert [r.state.step for r in saved] == [23, 46]
    names = set(saved[0].state.optimizer or {})
    assert {f"{n}/{s}" for n in training.start.weights for s in ("exp_avg", "step")} <= names
    for name, kept in training.mask.items():
        slot = (saved[0].state.optimizer or {})[f"{name}/exp_avg"]
        assert slot.shape == kept.shape and bool((slot[~kept] == 0).all())
    again = run(engine, training, events=[Evaluate()], resume=copy.deepcopy(saved[0]))[0]
    for name, weight in whole.end.weights.items():
        assert torch.equal(weight, again.end.weights[name])
    assert str(whole.record.metrics) == str(again.record.metrics)
    near(run(Loop(), training, events=[Evaluate()], resume=copy.deepcopy(saved[0]))[0], whole)


def test_saved_slots_of_a_ticket_are_used(engine: Any, perceptron: Make) -> None:
    adam = functools.partial(torch.optim.Adam, lr=1e-2)
    first = perceptron(optimizer=adam, last_step=10)
    saved: list[Any] = []
    checkpoint = Checkpoint(
        interval=Interval(step=Step(iterations=9)), save=lambda t, r: saved.append(r.state)
    )
    run(Loop(), first, events=[checkpoint])
    ticket = perceptron(density=0.3, optimizer=adam, start=saved[0], first_step=9)
    near(
        run(engine, ticket, events=[Evaluate()])[0],
        run(Loop(), ticket, events=[Evaluate()])[0],
    )


def test_probes_see_what_the_loop_shows(engine: Any, perceptron: Make) -> None:
    training = perceptron(density=0.2)
    (own,) = run(engine, training, events=[Evaluate(), GradientNorm()])
    (wanted,) = run(Loop(), training, events=[Evaluate(), GradientNorm()])
    for a, b in zip(
        own.record.probes["gradient_norm"], wanted.record.probes["gradient_norm"], strict=True
    ):
        for key in a:
            assert a[key] == (pytest.approx(b[key], abs=1e-4) if key != "layer" else b[key])
    (bare,) = run(engine, training, events=[Evaluate()])
    assert all(torch.equal(own.end.weights[n], bare.end.weights[n]) for n in bare.end.weights)


def test_masks_may_move_and_others_go_on(engine: Any, perceptron: Make) -> None:
    event = DropGrow(growth="gradient", every=Step(iterations=5), fraction=0.3, until=0.75)
    moving = perceptron(density=0.2, events=(event,))
    still = perceptron(seed=1, density=0.2)
    own = run(engine, moving, still, events=[Evaluate()])
    near(own[1], run(Loop(), still, events=[Evaluate()])[0])
    wanted = run(Loop(), moving, events=[Evaluate()])[0]
    # Rounding may let another weight move now and then; counts and most places are the same.
    for name, kept in own[0].mask.items():
        assert int(kept.sum()) == int(moving.mask[name].sum())
        assert int((kept ^ wanted.mask[name]).sum()) <= 0.1 * kept.numel()
        assert bool((own[0].end.weights[name][~kept] == 0).all())
    assert not all(torch.equal(own[0].mask[n], moving.mask[n]) for n in moving.mask)


@pytest.mark.parametrize("name", ["Adagrad", "Rprop", "Adamax"])
def test_what_grows_starts_with_empty_slots(name: str, engine: Any, perceptron: Make) -> None:
    """Where an optimizer's slots start above 0, or a resumed training would grow others."""
    if isinstance(engine, Graph) and name not in CAPTURABLE:
        return
    options = {"initial_accumulator_value": 0.1} if name == "Adagrad" else {}
    event = DropGrow(growth="random", every=Step(iterations=10), fraction=0.3, until=0.75)
    optimizer = functools.partial(getattr(torch.optim, name), lr=1e-2, **options)
    training = perceptron(density=0.5, events=(event,), optimizer=optimizer, last_step=15)
    saved: list[Resume] = []
    checkpoint = Checkpoint(
        interval=Interval(step=Step(iterations=4)),
        save=lambda t, resume: saved.append(copy.deepcopy(resume)),
    )
    (whole,) = run(engine, training, events=[Evaluate(), checkpoint])
    again = run(engine, training, events=[Evaluate()], resume=saved[0])[0]
    assert saved[0].state.step == 4
    for weight, value in whole.end.weights.items():
        assert torch.equal(value, again.end.weights[weight])


def test_one_may_stop_or_diverge_and_the_others_go_on(engine: Any, perceptron: Make) -> None:
    wild = perceptron(seed=2, optimizer=functools.partial(torch.optim.SGD, lr=0.1))
    start = wild.start
    huge = {n: w * 1e30 for n, w in start.weights.items()}
    wild = perceptron(seed=2, start=dataclasses.replace(start, weights=huge))
    calm = perceptron(seed=1, density=0.3)
    diverged, done = run(engine, wild, calm, events=[Evaluate()])
    assert diverged.record.status == "diverged" and done.record.status == "done"
    near(done, run(Loop(), calm, events=[Evaluate()])[0])


class Odd(nn.Sequential):
    def __init__(self, **_: Any) -> None:
        super().__init__(nn.Flatten(), nn.Linear(36, 5), nn.Tanh(), nn.Linear(5, 3))


class Own(Perceptron):
    def forward(self, x: Tensor) -> Tensor:
        return -super().forward(x)


def test_other_networks_devices_and_precisions_are_refused(perceptron: Make) -> None:
    training = perceptron()
    assert refusal(training, CPU) is None
    assert "Linear-ReLU networks, not Odd" in (refusal(training.replace(model=Odd), CPU) or "")
    assert "Linear-ReLU networks, not Own" in (refusal(training.replace(model=Own), CPU) or "")
    assert "in bf16" in (refusal(training.replace(precision="bf16"), CPU) or "")
    with pytest.raises(ValueError, match="got mlp, which trains Linear-ReLU .*: auto, loop"):
        run(MLP(), training.replace(model=Odd))
    assert linears(nn.Sequential(nn.Linear(3, 2))) is not None
    dropout = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Dropout(), nn.Linear(3, 2))
    assert linears(dropout) is None


def block() -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(36, 36), nn.ReLU(), nn.Linear(36, 3)]


def twice() -> nn.Sequential:
    shared = nn.Sequential(nn.Linear(36, 36), nn.ReLU())
    return nn.Sequential(nn.Flatten(), shared, shared, nn.Linear(36, 3))


def hooked() -> nn.Sequential:
    module = nn.Sequential(*block())
    module[1].register_forward_hook(lambda module, inputs, output: -output)
    return module


def frozen() -> nn.Sequential:
    module = nn.Sequential(*block())
    module[1].requires_grad_(False)
    return module


def buffered() -> nn.Sequential:
    module = nn.Sequential(*block())
    module.register_buffer("note", torch.zeros(1))
    return module


def reshaped() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3))


@pytest.mark.parametrize("make", [twice, hooked, frozen, buffered, reshaped])
def test_what_only_looks_like_a_perceptron_is_refused(
    make: Callable[[], nn.Module], perceptron: Make
) -> None:
    odd = perceptron().replace(model=lambda **_: make())
    assert "Linear-ReLU networks, not Sequential" in (refusal(odd, CPU) or "")


class Wide(nn.Sequential):
    """Five outputs for three classes."""

    def __init__(self, **_: Any) -> None:
        super().__init__(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 5))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_outputs_that_are_no_class_count_too(
    smoothing: float, engine: Any, tiny_task: Callable[..., Any], perceptron: Make
) -> None:
    rate = LearningRate(shape=MultiStep(milestones=(), gamma=0.5), total=20)
    training = dense(
        task=tiny_task(),
        model=Wide,
        init=GlorotNormal(),
        optimizer=functools.partial(torch.optim.SGD, lr=0.1),
        learning_rate=rate,
        seed=0,
        eval_every=10,
        label_smoothing=smoothing,
    )
    (own,) = run(engine, training, events=[Evaluate()])
    near(own, run(Loop(), training, events=[Evaluate()])[0])


class Noisy(nn.Sequential):
    def __init__(self, **_: Any) -> None:
        super().__init__(nn.Flatten(), nn.Linear(36, 5), nn.Dropout(), nn.Linear(5, 3))


class Curious(nn.Linear):
    def __init__(self, **_: Any) -> None:
        super().__init__(36, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x.flatten(1))
        return y if float(y.sum()) > 0 else -y


def test_what_cannot_be_stacked_is_refused(perceptron: Make) -> None:
    for model, why in ((Noisy, "cannot stack Noisy"), (Curious, "cannot stack Curious")):
        odd = perceptron(model=model)
        assert why in (Stacked().refusal(odd, CPU) or "")
        with pytest.raises(ValueError, match=f"engine: got stacked, which {why}.*: auto, loop"):
            run(Stacked(), odd)


def test_what_cannot_be_captured_is_refused(perceptron: Make) -> None:
    training = perceptron()
    assert Graph().refusal(training, CPU) == "captures CUDA graphs, and the device is cpu"
    with pytest.raises(ValueError, match="engine: got graph, which captures CUDA graphs"):
        run(Graph(), training)
    assert draws_random(Noisy, (1, 6, 6), 3) == "Noisy"
    assert draws_random(Perceptron, (1, 6, 6), 3) is None
    eager = functools.partial(torch.optim.Adam, lr=0.1, foreach=True)
    assert refused(eager) == "captures fused optimizers only"
    dampened = functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9, dampening=0.5)
    assert refused(dampened) == "captures SGD without dampening only"


def test_long_trainings_are_compiled_where_asked_for(perceptron: Make) -> None:
    engine = Stacked(cohort=2, compile_from=50)
    whole, part = perceptron(density=0.4), perceptron(last_step=49)
    assert engine.numerics(CPU, whole)["compile"] and not engine.numerics(CPU, part)["compile"]
    (own,) = run(engine, whole, events=[Evaluate()])
    near(own, run(Loop(), whole, events=[Evaluate()])[0])


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="compile_from: got 0, allowed: 1 update or more"):
        Stacked(compile_from=0)
    for engine in (Stacked, Graph):
        with pytest.raises(ValueError, match="cohort: got 0, allowed: 1 or more"):
            engine(cohort=0)
    with pytest.raises(
        ValueError, match=r"sparse_below: got 2, allowed: 0 to 1 \(a density\) or measured"
    ):
        MLP(sparse_below=2)
    with pytest.raises(ValueError, match="cohort: got 0, allowed: 1 or more"):
        MLP(cohort=0)


def test_events_of_a_cohort_happen_in_step(engine: Any, perceptron: Make) -> None:
    seen: list[tuple[str, int]] = []

    class Note:
        def steps(self, training: Training) -> list[int]:
            return [0, 3, 50]

        def __call__(self, moment: Any, record: Any) -> None:
            seen.append((moment.training.id[:4], moment.step))

    note: Event = Note()  # type: ignore[assignment]
    a, b = perceptron(), perceptron(density=0.5)
    run(engine, a, b, events=[note])
    assert seen == [(t.id[:4], step) for step in (0, 3, 50) for t in (a, b)]


def test_dead_units_are_seen_by_every_engine(engine: Any, perceptron: Make) -> None:
    training = perceptron(density=0.1)
    (own,) = run(engine, training, events=[Evaluate(), DeadUnits()])
    (wanted,) = run(Loop(), training, events=[Evaluate(), DeadUnits()])
    rows = own.record.probes["dead_units"]
    assert len(rows) == 2 * len(training.grid()) and rows == wanted.record.probes["dead_units"]


def test_masks_of_one_cohort_may_cover_different_parameters(engine: Any, perceptron: Make) -> None:
    bias = torch.arange(20) % 3 > 0
    ticket = perceptron(seed=1, density=0.3)
    units = ticket.replace(mask={**ticket.mask, "1.bias": bias})
    cohort = [perceptron(density=0.5), units, perceptron(seed=2), perceptron(seed=1)]
    for order in (cohort, cohort[::-1]):
        for own, training in zip(run(engine, *order, events=[Evaluate()]), order, strict=True):
            near(own, run(Loop(), training, events=[Evaluate()])[0])
