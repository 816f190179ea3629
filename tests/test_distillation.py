"""Distillation: the loss by hand, who teaches whom, and that nothing else changes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir

from lth.baseline.other_order import OtherOrder
from lth.baseline.random_reinit import RandomReinit
from lth.baseline.shuffled_mask import ShuffledMask
from lth.build import Run, build
from lth.config import ConfigError
from lth.distillation import Distillation, Teaching
from lth.engine.auto import Auto
from lth.engine.mlp import MLP
from lth.engine.network import Network
from lth.event.checkpoint import Interval
from lth.model.lenet_300_100 import LeNet300100
from lth.paths import conf_dir
from lth.prepare import prepare, read_data
from lth.protocol import Moment, Record
from lth.run import main, register
from lth.runtime import Runtime
from lth.spec import state_digest
from lth.store.memory import MemoryStore
from lth.training import Training
from lth.types import TrainState

EMPTY = TrainState(step=0, weights={}, buffers={})
TINY = [
    "dataset=synthetic",
    "dataset.validation=64",
    "seeds=[0]",
    "levels=1",
    "train_steps=20it",
    "eval_every=10it",
    "batch_size=32",
    "baseline=[]",
    "sink=[]",
    "report=false",
]


def same(a: Any, b: Any) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def taught(dense: Training, **options: float) -> Training:
    return dense.replace(distillation=Distillation(teacher=dense.start, **options))


# The loss.


def test_the_loss_of_two_examples_by_hand() -> None:
    # Two classes, T = 2. The softened teacher says (3/4, 1/4) and (1/2, 1/2),
    # the softened student (1/2, 1/2) and (4/5, 1/5).
    teacher = torch.tensor([[2 * math.log(3), 0.0], [0.0, 0.0]], dtype=torch.float64)
    student = torch.tensor([[0.0, 0.0], [2 * math.log(4), 0.0]], dtype=torch.float64)
    first = 3 / 4 * math.log(3 / 2) + 1 / 4 * math.log(1 / 2)
    second = 1 / 2 * math.log(5 / 8) + 1 / 2 * math.log(5 / 2)
    own = Distillation(teacher=EMPTY, temperature=2, weight=0.25)
    loss = own.loss(torch.tensor(0.7), student, teacher)
    assert float(loss) == pytest.approx(0.75 * 0.7 + 0.25 * 4 * (first + second) / 2, abs=1e-7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0}, "temperature: got 0, allowed: above 0"),
        ({"weight": 1.5}, "weight: got 1.5, allowed: 0 to 1"),
    ],
)
def test_what_cannot_be_computed_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Distillation(teacher=EMPTY, **options)


# A Training.


def test_the_teacher_enters_the_id_and_its_absence_does_not(make_search: Any) -> None:
    dense = make_search().dense(0)
    assert "distillation" not in dense.spec
    assert taught(dense).spec["distillation"] == {
        "teacher": state_digest(dense.start),
        "temperature": 4,
        "weight": 0.9,
    }
    other = TrainState(
        step=0,
        weights={n: w + 1 for n, w in dense.start.weights.items()},
        buffers=dense.start.buffers,
    )
    variants = [dense, taught(dense), taught(dense, weight=0.5), taught(dense, temperature=2)]
    variants.append(dense.replace(distillation=Distillation(teacher=other)))
    assert len({t.id for t in variants}) == 5
    slots = Distillation(teacher=TrainState(**{**vars(dense.start), "optimizer": {}}))
    assert dense.replace(distillation=slots).id == taught(dense).id


def test_weight_0_is_no_distillation_to_the_last_bit(make_search: Any, make_workshop: Any) -> None:
    dense = make_search().dense(0)
    plain, own = make_workshop().complete([dense, taught(dense, weight=0)])
    assert plain.done["digests"] == own.done["digests"]
    assert repr(plain.metrics()) == repr(own.metrics())


def test_training_is_what_plain_torch_makes_of_the_equation(
    make_search: Any, make_workshop: Any
) -> None:
    dense = make_search().dense(0)
    (end,) = make_workshop().complete([dense])
    teacher = end.state("end")
    student = dense.replace(
        last_step=1, distillation=Distillation(teacher=teacher, temperature=3, weight=0.6)
    )
    network = Network(student, torch.device("cpu"))
    network.load(student.start, student.mask)
    task = student.task
    x, y = task.train.gather(torch.arange(16))
    tutor = student.model(input_shape=task.input_shape, num_classes=task.num_classes)
    tutor.load_state_dict({**teacher.weights, **teacher.buffers})
    tutor.eval()
    p = (tutor(x) / 3).softmax(1)
    logits = network.module(x)
    log_q = (logits / 3).log_softmax(1)
    hard = -logits.log_softmax(1)[torch.arange(16), y].mean()
    wanted = 0.4 * hard + 0.6 * 9 * (p * (p.log() - log_q)).sum(1).mean()
    torch.testing.assert_close(network.loss(logits, y, x), wanted)


class _Look:
    """Reads the gradient and the teacher at one step; changes nothing."""

    def __init__(self) -> None:
        self.gradient: Any = None

    def steps(self, training: Training) -> list[int]:
        return [0]

    def __call__(self, moment: Moment, record: Record) -> None:
        self.gradient = moment.gradient()


def test_the_teacher_stays_as_it_is_and_shows_in_an_events_gradient(
    make_search: Any, make_workshop: Any
) -> None:
    dense = make_search().dense(0)
    training = taught(dense, weight=1)
    distillation = training.distillation
    assert distillation is not None
    digest = state_digest(distillation.teacher)
    look = _Look()
    workshop = make_workshop(observe=lambda t: [look])
    workshop.complete([training])
    assert state_digest(distillation.teacher) == digest
    # Its own teacher: no gradient but for BatchNorm's other statistics.
    own = look.gradient
    workshop.complete([dense])
    assert not same(own, look.gradient)


def test_evaluation_and_early_stopping_stay_cross_entropy(
    make_search: Any, make_workshop: Any
) -> None:
    dense = make_search().dense(0)
    plain, own = make_workshop().complete([dense, taught(dense, weight=1)])
    assert plain.metrics()[0]["val_loss"] == own.metrics()[0]["val_loss"]
    assert plain.done["digests"]["end"] != own.done["digests"]["end"]


def test_a_killed_training_goes_on_to_the_same_bits(make_search: Any, make_workshop: Any) -> None:
    training = taught(make_search().dense(0))
    (whole,) = make_workshop().complete([training])

    class Kill(Exception):
        pass

    class KillAt:
        def steps(self, training: Training) -> list[int]:
            return [9]

        def __call__(self, moment: Moment, record: Record) -> None:
            raise Kill

    store = MemoryStore()
    every = Interval.parse("4it")
    with pytest.raises(Kill):
        make_workshop(store, checkpoint=every, observe=lambda t: [KillAt()]).complete([training])
    (resumed,) = make_workshop(store, checkpoint=every).complete([training])
    assert resumed.done["digests"] == whole.done["digests"]
    assert repr(resumed.metrics()) == repr(whole.metrics())


# Engines.


def test_auto_falls_to_loop_and_mlp_refuses(make_search: Any) -> None:
    dense, runtime = make_search(model=LeNet300100).dense(0), Runtime(device="cpu")
    assert Auto().choose(dense, runtime)[1].startswith("mlp")
    assert Auto().choose(taught(dense), runtime)[1] == "loop (mlp knows no distillation)"
    with pytest.raises(ValueError, match="mlp, which knows no distillation, allowed: auto, loop"):
        list(
            MLP().train(
                [taught(dense)], events=lambda t: [], resume=lambda t: None, runtime=runtime
            )
        )


# A search.


def test_all_of_a_level_have_the_same_teacher_and_level_0_none(
    make_search: Any, make_workshop: Any
) -> None:
    controls = {
        "reinit": RandomReinit(),
        "dense_k": RandomReinit(origin="dense_k"),
        "shuffled": ShuffledMask(),
        "order": OtherOrder(),
    }
    search = make_search(
        seeds=(0, 1), baselines=controls, distillation=Teaching(temperature=4, weight=0.9)
    )
    trained: list[Training] = []
    workshop = make_workshop(committed=lambda training, stored: trained.append(training))
    levels = list(search.run(workshop))
    ends = {}
    for row in levels[0]:
        assert row.training.distillation is None
        ends[row.seed] = state_digest(row.stored.state("end"))
    assert len(set(ends.values())) == 2
    for row in [*levels[1], *levels[2]]:
        assert row.training.spec["distillation"]["teacher"] == ends[row.seed], row.variant
    # The strict control's way to k is as theta_k's: without a teacher.
    planned = {r.training.id for rows in levels for r in rows}
    preludes = [t for t in trained if t.id not in planned]
    assert len(preludes) == 4
    assert all(t.distillation is None for t in preludes)


# The command.


def built(*overrides: str) -> Run:
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return build(compose("run", overrides=[*TINY, *overrides]))


def command(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> int:
    monkeypatch.setattr("sys.argv", ["lth", *TINY, *overrides])
    try:
        return main()
    except SystemExit as end:
        return int(end.code or 0)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["distillation.weight=0.5"], "distillation.weight: got 0.5, allowed: only with a"),
        (
            ["distillation.teacher=dense", "distillation.temperature=0"],
            "distillation.temperature: got 0.0, allowed: above 0",
        ),
    ],
)
def test_options_that_do_nothing_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        built(*overrides)


def test_a_stored_network_teaches_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch) == 0
    (folder,) = (tmp_path / "results" / "run").glob("????????????????")
    path = f"distillation.teacher={folder}/seed_000/ticket/level_01"
    run = built(path)
    search = prepare(run, read_data(run))
    assert search.distillation is not None
    first = search.distillation(None, search.model)  # type: ignore[arg-type]  # needs no history
    stored = run.store.get(Path(f"{folder}/seed_000/ticket/level_01").resolve().name)
    assert same(first.teacher.weights, stored.state("end").weights)
    # A link and a reference are the same Training.
    assert built(path + ".json").run_id != run.run_id
    json = prepare(built(path + ".json"), read_data(run)).distillation
    assert json is not None and json(None, search.model).spec == first.spec  # type: ignore[arg-type]

    assert command(monkeypatch, path, "engine=mlp") == 2
    assert "engine: got mlp, which knows no distillation" in capsys.readouterr().err
    assert command(monkeypatch, path, "dataset.classes=5") == 2
    assert "another architecture than the model's" in capsys.readouterr().err
    assert command(monkeypatch, "distillation.teacher=nowhere") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: distillation.teacher: got 'nowhere', allowed: null, dense, or")
    assert command(monkeypatch, "distillation.teacher=dense", "sink=[console]") == 0
    said = capsys.readouterr().out
    assert "mlp (a Linear-ReLU network on the CPU) for level 0, then loop" in said
