"""The reference engine against plain PyTorch, its masks, its schedule, its independence."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lth import mask
from lth.complete import Watch
from lth.dataset.dataset import Raw
from lth.dataset.synthetic import Synthetic
from lth.engine.batches import Batches
from lth.engine.loop import Loop
from lth.event.dead_units import DeadUnits
from lth.event.evaluate import Evaluate
from lth.event.gradient_norm import GradientNorm
from lth.event.progress import Progress
from lth.lr.constant import Constant
from lth.lr.cosine import Cosine
from lth.lr.step import MultiStep
from lth.optimizer import ELEMENTWISE
from lth.protocol import Change, Moment, Record, Stop
from lth.runtime import Runtime
from lth.step import Step
from lth.training import LearningRate, Training, streams
from lth.types import TrainState

CPU = Runtime(device="cpu")


class Net(nn.Module):
    """A small MLP with dropout on request, in any dtype."""

    def __init__(
        self,
        *,
        input_shape: tuple[int, int, int],
        num_classes: int,
        hidden: int = 8,
        dropout: float = 0.0,
        double: bool = False,
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(math.prod(input_shape), hidden)
        self.relu = nn.ReLU()
        self.drop = nn.Dropout(dropout)
        self.fc2 = nn.Linear(hidden, num_classes)
        if double:
            self.double()

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1).to(self.fc1.weight.dtype)
        output: Tensor = self.fc2(self.drop(self.relu(self.fc1(x))))
        return output


def made(task: Any, **changes: Any) -> Training:
    """A dense Training of ``Net``; weights from a fixed stream."""
    model = changes.pop("model", Net)
    net = model(input_shape=task.input_shape, num_classes=task.num_classes)
    stream = torch.Generator().manual_seed(3)
    weights = {
        n: torch.randn(p.shape, generator=stream, dtype=p.dtype) * 0.3
        for n, p in net.named_parameters()
    }
    settings: dict[str, Any] = {
        "task": task,
        "model": model,
        "mask": mask.full(weights, ["fc1.weight", "fc2.weight"]),
        "start": TrainState(step=0, weights=weights, buffers={}),
        "last_step": 12,
        "optimizer": functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9),
        "learning_rate": LearningRate(shape=Constant(), total=12),
        "streams": streams(0),
        "eval_every": 4,
    }
    return Training(**(settings | changes))


def run(training: Training, events: tuple[Any, ...] = (), engine: Loop | None = None) -> Any:
    (result,) = (engine or Loop()).train(
        [training], events=lambda t: [*events], resume=lambda t: None, runtime=CPU
    )
    return result


def pruned(training: Training, keep: float = 0.3) -> Training:
    scores = {n: training.start.weights[n].abs() for n in training.mask}
    count = round(keep * mask.size(training.mask))
    return training.replace(mask=mask.keep_top(scores, training.mask, count))


def same(a: TrainState, b: TrainState) -> bool:
    return all(torch.equal(a.weights[n], b.weights[n]) for n in a.weights)


class Watcher:
    """Looks after every update."""

    def __init__(self, look: Any) -> None:
        self.look = look

    def steps(self, training: Training) -> range:
        return range(training.first_step, training.last_step + 1)

    def __call__(self, moment: Moment, record: Record) -> None:
        self.look(moment)


# Against plain PyTorch


@pytest.mark.parametrize(
    "optimizer",
    [
        functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=5e-4),
        functools.partial(torch.optim.Adam, lr=1e-2),
    ],
    ids=["sgd", "adam"],
)
def test_a_dense_training_is_a_plain_loop_bit_for_bit(optimizer: Any, tiny_task: Any) -> None:
    task = tiny_task()
    training = made(task, optimizer=optimizer)
    net = Net(input_shape=task.input_shape, num_classes=task.num_classes)
    net.load_state_dict(dict(training.start.weights))
    plain = optimizer(net.parameters(), fused=True)
    batches = Batches(training, torch.device("cpu"))
    for step in range(training.last_step):
        x, y = batches(step)
        plain.zero_grad()
        F.cross_entropy(net(x), y).backward()
        plain.step()
    assert same(run(training).end, TrainState(step=12, weights=net.state_dict(), buffers={}))


# Masks


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_pruned_weights_and_their_moments_are_zero_after_every_step(
    name: str, tiny_task: Any
) -> None:
    options: dict[str, float] = {"lr": 0.01, "weight_decay": 5e-4}
    if name == "SGD":
        options["momentum"] = 0.9
    if name == "Rprop":
        del options["weight_decay"]
    training = pruned(
        made(tiny_task(), optimizer=functools.partial(getattr(torch.optim, name), **options))
    )
    seen = []

    def look(moment: Moment) -> None:
        state = moment.state(optimizer=True)
        for layer, kept in training.mask.items():
            assert torch.all(state.weights[layer][~kept] == 0.0)
            if moment.step == 0:
                continue
            for key, slot in (state.optimizer or {}).items():
                moments = ("exp_avg", "exp_avg_sq", "momentum_buffer", "square_avg", "sum", "prev")
                if key.rpartition("/")[0] == layer and key.endswith(moments):
                    assert torch.all(slot[~kept] == 0.0), key
        seen.append(moment.step)

    result = run(training, (Watcher(look),))
    assert len(seen) == 13
    moved = result.end.weights["fc1.weight"] != training.start.weights["fc1.weight"]
    # Survivors learn, the negative ones and the zero ones too.
    kept = training.mask["fc1.weight"]
    negative = kept & (training.start.weights["fc1.weight"] < 0)
    assert bool(negative.any()) and bool(moved[negative].any())


def test_a_kept_weight_that_starts_at_zero_learns(tiny_task: Any) -> None:
    training = made(tiny_task())
    weights = {
        n: torch.zeros_like(w) if n == "fc2.weight" else w
        for n, w in training.start.weights.items()
    }
    training = training.replace(start=TrainState(step=0, weights=weights, buffers={}))
    assert bool((run(training).end.weights["fc2.weight"] != 0).all())


@pytest.mark.parametrize(
    "optimizer",
    [
        functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=5e-4),
        functools.partial(torch.optim.Adam, lr=1e-2, weight_decay=5e-4),
    ],
    ids=["sgd", "adam"],
)
def test_survivors_move_as_in_the_physically_smaller_network(
    optimizer: Any, tiny_task: Any
) -> None:
    # Units 0, 3 and 5 of 8 are gone with their bias; float64, to 1e-10.
    task, gone = tiny_task(), [0, 3, 5]
    left = [i for i in range(8) if i not in gone]
    large = made(task, model=functools.partial(Net, double=True), optimizer=optimizer)
    unit = torch.ones(8, dtype=torch.bool)
    unit[gone] = False
    shapes = {n: w.shape for n, w in large.start.weights.items()}
    whole = {
        "fc1.weight": unit[:, None].expand(shapes["fc1.weight"]).contiguous(),
        "fc1.bias": unit,
        "fc2.weight": unit[None].expand(shapes["fc2.weight"]).contiguous(),
    }
    masked = large.replace(mask=whole)
    small = made(task, model=functools.partial(Net, double=True, hidden=5), optimizer=optimizer)
    start = large.start.weights
    cut = {
        "fc1.weight": start["fc1.weight"][left],
        "fc1.bias": start["fc1.bias"][left],
        "fc2.weight": start["fc2.weight"][:, left],
        "fc2.bias": start["fc2.bias"],
    }
    small = small.replace(start=TrainState(step=0, weights=cut, buffers={}))
    a, b = run(masked).end.weights, run(small).end.weights
    assert torch.allclose(a["fc1.weight"][left], b["fc1.weight"], rtol=0, atol=1e-10)
    assert torch.allclose(a["fc1.bias"][left], b["fc1.bias"], rtol=0, atol=1e-10)
    assert torch.allclose(a["fc2.weight"][:, left], b["fc2.weight"], rtol=0, atol=1e-10)


def test_clipping_sees_the_living_weights_only(tiny_task: Any) -> None:
    training = pruned(
        made(
            tiny_task(),
            optimizer=functools.partial(torch.optim.SGD, lr=1.0),
            last_step=1,
            grad_clip=1e-3,
        )
    )
    end = run(training).end.weights
    step = torch.cat([(end[n] - training.start.weights[n]).flatten() for n in end])
    # With lr 1 the update is the clipped gradient, whose norm is the bound.
    assert float(step.norm()) == pytest.approx(1e-3, rel=1e-3)


# Learning rate, batches, options


def test_the_rate_at_absolute_steps_by_hand() -> None:
    rate = LearningRate(
        shape=MultiStep(milestones=[Step(iterations=10), Step(iterations=20)]), total=30, warmup=4
    )
    wanted = {0: 0.25, 2: 0.75, 3: 1.0, 9: 1.0, 10: 0.1, 20: 0.01, 29: 0.01}
    assert {s: rate(s) for s in wanted} == pytest.approx(wanted)
    held = LearningRate(shape=rate.shape, total=30, warmup=4, hold=True)
    assert held(0) == held(29) == pytest.approx(0.01)
    cosine = LearningRate(shape=Cosine(floor=0.1), total=10)
    assert [cosine(s) for s in (0, 5, 10)] == pytest.approx([1.0, 0.55, 0.1])
    # Held is the rate of the last update, T - 1, not what lies after it.
    last = LearningRate(shape=Cosine(), total=10, hold=True)
    assert last(0) == pytest.approx((1 + math.cos(0.9 * math.pi)) / 2)


def test_the_engine_uses_the_rate_of_the_absolute_step(tiny_task: Any) -> None:
    rate = LearningRate(shape=MultiStep(milestones=[Step(iterations=6)], gamma=0.0001), total=12)
    plain = functools.partial(torch.optim.SGD, lr=0.1)
    early = made(tiny_task(), learning_rate=rate, first_step=5, last_step=6, optimizer=plain)
    late = made(tiny_task(), learning_rate=rate, first_step=6, last_step=7, optimizer=plain)
    moved = [
        float((run(t).end.weights["fc2.weight"] - t.start.weights["fc2.weight"]).norm())
        for t in (early, late)
    ]
    assert moved[1] < 0.01 * moved[0]


def test_an_epoch_is_floor_n_over_batch_and_later_steps_need_no_replay(tiny_task: Any) -> None:
    task = tiny_task(train=70)  # 54 left after validation, 3 batches of 16
    assert (len(task.train), task.updates_per_epoch) == (54, 3)
    training = made(task)
    device = torch.device("cpu")
    in_order = Batches(training, device)
    labels = [in_order(step)[1] for step in range(7)]
    jumped = Batches(training, device)
    assert torch.equal(jumped(5)[1], labels[5])
    assert torch.equal(jumped(0)[1], labels[0])
    images = torch.cat([in_order(step)[0] for step in range(3)])
    assert len(torch.unique(images.flatten(1), dim=0)) == 48
    other = Batches(training.replace(streams=streams(0, level=1)), device)
    assert not torch.equal(other(0)[0], in_order(0)[0])
    assert not torch.equal(in_order(3)[0], in_order(0)[0])


def test_augmentation_is_a_function_of_the_step(tiny_task: Any) -> None:
    task = tiny_task(crop=1, flip=True)
    device = torch.device("cpu")
    x = Batches(made(task), device)(7)[0]
    assert torch.equal(x, Batches(made(task), device)(7)[0])
    assert not torch.equal(x, Batches(made(tiny_task()), device)(7)[0])
    own = made(task, streams={**streams(0), "augment": ("augment", 9, 0)})
    assert not torch.equal(x, Batches(own, device)(7)[0])


@pytest.mark.parametrize(
    "change",
    [
        {"label_smoothing": 0.1},
        {"precision": "bf16"},
        {"grad_clip": 0.01},
        {"learning_rate": LearningRate(shape=Constant(), total=12, warmup=6)},
    ],
    ids=lambda c: next(iter(c)),
)
def test_every_option_changes_the_end_and_the_id(change: dict[str, Any], tiny_task: Any) -> None:
    plain, changed = made(tiny_task()), made(tiny_task(), **change)
    assert plain.id != changed.id
    assert not same(run(plain).end, run(changed).end)


def test_channels_last_and_compile_give_the_same_up_to_rounding(
    tiny_task: Any, make_search: Any
) -> None:
    conv = make_search().dense(0)
    a, b = run(conv), run(conv, engine=Loop(channels_last=True))
    for name, weight in a.end.weights.items():
        assert torch.allclose(weight, b.end.weights[name], atol=1e-4)
    training = pruned(made(tiny_task(), last_step=3))
    compiled = run(training, engine=Loop(compile=True))
    assert compiled.numerics["compile"] is True
    for name, weight in run(training).end.weights.items():
        assert torch.allclose(weight, compiled.end.weights[name], atol=1e-5)


# Independence


def test_the_same_training_twice_is_bit_equal_and_another_order_is_not(tiny_task: Any) -> None:
    training = made(tiny_task())
    assert same(run(training).end, run(training).end)
    assert not same(run(training).end, run(training.replace(streams=streams(1))).end)


def test_dropout_is_seeded_per_step_and_the_global_generator_is_left_alone(
    tiny_task: Any,
) -> None:
    training = made(tiny_task(), model=functools.partial(Net, dropout=0.5))
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first = run(training).end
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(12)
    assert same(run(training).end, first)
    assert not same(run(made(tiny_task())).end, first)
    own = training.replace(streams={**streams(0), "module": ("module", 5, 0)})
    assert not same(run(own).end, first)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_watching_changes_nothing(dropout: float, tiny_task: Any) -> None:
    training = pruned(made(tiny_task(), model=functools.partial(Net, dropout=dropout)))
    bare = run(training).end
    watched = run(
        training,
        (
            Evaluate(test_curve=True),
            GradientNorm(),
            DeadUnits(),
            Progress(show=lambda *values: None),
            Watcher(lambda moment: moment.state(optimizer=True)),
        ),
    )
    assert same(bare, watched.end)
    assert {r["layer"] for r in watched.record.probes["gradient_norm"]} == set(training.mask)


def test_watching_a_batchnorm_net_changes_nothing(make_search: Any, make_workshop: Any) -> None:
    dense = make_search().dense(0)
    (bare,) = make_workshop().complete([dense])
    watch = Watch(
        keep=frozenset({3}),
        keep_early_stop=True,
        keep_optimizer=True,
        test_curve=True,
        probes={"gradient_norm": GradientNorm()},
    )
    (watched,) = make_workshop().complete([dense], watch)
    assert bare.done["digests"] == watched.done["digests"]


class PruneAt:
    """A toy event: at ``step`` the first layer loses its first row."""

    def __init__(self, step: int) -> None:
        self.step = step

    def steps(self, training: Training) -> list[int]:
        return [self.step]

    def __call__(self, moment: Moment, record: Record) -> Change:
        kept = {n: m.clone() for n, m in moment.mask.items()}
        kept["fc1.weight"][0] = False
        return Change(state=moment.state(optimizer=True), mask=kept)


def test_an_event_of_the_training_may_change_the_mask_an_observer_may_not(
    tiny_task: Any,
) -> None:
    event = PruneAt(6)
    training = made(tiny_task())
    object.__setattr__(training, "events", (event,))
    result = run(training)
    assert not result.mask["fc1.weight"][0].any()
    assert torch.all(result.end.weights["fc1.weight"][0] == 0.0)
    assert bool((result.end.weights["fc1.weight"][1] != 0.0).all())
    with pytest.raises(ValueError, match="PruneAt changes the training"):
        run(made(tiny_task()), (PruneAt(6),))


def test_stop_ends_a_training(tiny_task: Any) -> None:
    class StopAt6(Watcher):
        def __call__(self, moment: Moment, record: Record) -> Stop | None:
            return Stop() if moment.step == 6 else None

    assert run(made(tiny_task()), (StopAt6(None),)).end.step == 6


def test_nothing_is_read_from_the_device_between_events(
    tiny_task: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: dict[int, int] = {}
    for length in (10, 40):
        reads = 0

        def counted(original: Any) -> Any:
            def read(*arguments: Any, **options: Any) -> Any:
                nonlocal reads
                reads += 1
                return original(*arguments, **options)

            return read

        training = pruned(made(tiny_task(), last_step=length))
        with monkeypatch.context() as patch:
            for name in ("item", "__float__", "__int__", "__bool__", "tolist", "cpu", "numpy"):
                patch.setattr(Tensor, name, counted(getattr(Tensor, name)))
            run(training)
        counts[length] = reads
    assert counts[10] == counts[40]


def test_a_state_that_does_not_fit_is_refused_by_name(tiny_task: Any) -> None:
    training = made(tiny_task())
    weights = {n: w for n, w in training.start.weights.items() if n != "fc2.bias"}
    with pytest.raises(ValueError, match="weights of a state do not fit the model: fc2.bias"):
        run(training.replace(start=TrainState(step=0, weights=weights, buffers={})))


def test_a_diverging_training_ends_at_its_next_evaluation(tiny_task: Any) -> None:
    training = made(tiny_task(), optimizer=functools.partial(torch.optim.SGD, lr=1e30))
    result = run(training, (Evaluate(),))
    assert result.record.status == "diverged"
    assert result.end.step == 4
    assert [m["step"] for m in result.record.metrics] == [0.0, 4.0]


def test_data_are_not_written_to(tiny_task: Any) -> None:
    dataset = Synthetic(train=80, test=24, validation=16, shape=(1, 6, 6), classes=3)
    raw: Raw = dataset.read(None)  # type: ignore[arg-type]
    before = raw.x_train.clone()
    run(made(dataset.task(raw, seed=0, batch_size=16)), (Evaluate(),))
    assert torch.equal(raw.x_train, before)
