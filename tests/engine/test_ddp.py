"""Two processes train what one does. Run as a script under torchrun, this is the two processes."""

from __future__ import annotations

import dataclasses
import functools
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from lth import mask as masks
from lth import run
from lth.allocation.global_top import GlobalTop
from lth.build import build
from lth.complete import Workshop
from lth.conduct import conduct
from lth.config import ConfigError
from lth.dataset.corrupt import corrupt
from lth.dataset.synthetic import Synthetic
from lth.dataset.task import Task
from lth.distillation import Distillation
from lth.engine.ddp import DDP
from lth.engine.loop import Loop
from lth.event.evaluate import Evaluate
from lth.finder.gradual import PruneGradually
from lth.init.glorot_normal import GlorotNormal
from lth.lr.constant import Constant
from lth.paths import conf_dir
from lth.protocol import Engine, Moment, Record, Result, Resume, Stop
from lth.run import register
from lth.runtime import Runtime
from lth.step import Step
from lth.store import checkpoints
from lth.store.memory import MemoryStore
from lth.store.run_folder import locate, runs
from lth.store.stored import Stored
from lth.training import LearningRate, Training, dense

ROOT = Path(__file__).resolve().parents[2]
CPU = Runtime(device="cpu")
TOLERANCE = 1e-5
STEPS = 20


class Perceptron(nn.Sequential):
    """Two layers with ReLU."""

    def __init__(self, *, input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(36, 12), nn.ReLU(), nn.Linear(12, num_classes))


class Norms(nn.Module):
    """BatchNorm over images and over vectors, with a moving and with a plain average."""

    def __init__(self, *, input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.fc1 = nn.Linear(4, 8)
        self.norm1 = nn.BatchNorm1d(8, momentum=None)
        self.fc2 = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x))).mean((2, 3))
        output: Tensor = self.fc2(F.relu(self.norm1(self.fc1(x))))
        return output


def task() -> Task:
    data = Synthetic(train=80, test=24, validation=16, shape=(1, 6, 6), classes=3, crop=1)
    return data.task(data.read(Path()), seed=0, batch_size=15)


def trainings(own: Task) -> dict[str, Training]:
    """What is compared. A batch of 15 is shared as 7 and 8."""
    make = functools.partial(
        dense,
        task=own,
        init=GlorotNormal(),
        optimizer=functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9),
        learning_rate=LearningRate(shape=Constant(), total=STEPS),
        seed=0,
        eval_every=5,
    )
    plain = make(model=Perceptron, label_smoothing=0.1, grad_clip=0.5)
    norms = make(model=Norms)
    gradual = PruneGradually(
        keep=150,
        every=Step.parse("5it"),
        begin=0.0,
        until=0.75,
        allocation=GlobalTop(),
        layers={"1.weight": "linear", "3.weight": "output"},
    )
    half = {n: w.abs() for n, w in plain.start.weights.items() if n in plain.mask}
    return {
        "plain": plain,
        "sparse": plain.replace(mask=masks.keep_top(half, plain.mask, 200)),
        "norms": norms,
        "gradual": plain.replace(events=(gradual,)),
        "taught": norms.replace(distillation=Distillation(teacher=norms.start)),
    }


def complete(own: Sequence[Training], engine: Engine) -> list[Stored]:
    return Workshop(store=MemoryStore(), engine=engine, runtime=CPU).complete(own)


def facts(stored: Stored) -> dict[str, Any]:
    end = stored.state("end")
    return {
        "metrics": stored.metrics(),
        "state": {**end.weights, **end.buffers},
        "mask": stored.mask(),
        "numerics": stored.done["numerics"],
    }


class StopAt:
    """Catches a training as Checkpoint does, and ends it."""

    data = b""

    def steps(self, training: Training) -> list[int]:
        return [8]

    def __call__(self, moment: Moment, record: Record) -> Stop:
        state, loss = moment.state(optimizer=True), moment.pending_loss()
        resume = Resume(state=state, mask=moment.mask, record=record, pending_loss=loss)
        self.data = checkpoints.encode(moment.training, resume, {})
        return Stop()


def gone_on_with(training: Training) -> dict[str, Any]:
    """Its end, after it was stopped and gone on with."""
    stop = StopAt()

    def train(events: list[Any], resume: Resume | None) -> Result:
        (result,) = DDP().train(
            [training], events=lambda t: events, resume=lambda t: resume, runtime=CPU
        )
        return result

    assert train([Evaluate(), stop], None).record.status == "stopped"
    end = train([Evaluate()], checkpoints.decode(stop.data, training, {})).end
    return {**end.weights, **end.buffers}


# What the two processes do.


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    rank, engine, own = int(os.environ["RANK"]), DDP(), task()
    engine.join(CPU)
    log: list[str] = []

    def lead() -> None:
        log.append("lead")
        named = trainings(own)
        found: dict[str, Any] = {
            name: facts(stored)
            for name, stored in zip(named, complete(list(named.values()), engine), strict=True)
        }
        found["gone on"] = gone_on_with(named["norms"])
        with pytest.raises(ValueError, match="cannot share batches of 1 among 2 processes"):
            complete([named["plain"].replace(task=dataclasses.replace(own, batch_size=1))], engine)
        (folder / "found").write_bytes(pickle.dumps(found))

    def tasks() -> list[Task]:
        log.append("tasks")
        return [own]

    engine.together(lead, tasks=tasks, runtime=CPU)
    assert log == (["tasks"] if rank else ["lead"])
    assert not torch.distributed.is_initialized()


# The tests.


def torchrun(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*launcher, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the two processes found."""
    folder = tmp_path_factory.mktemp("ddp")
    result = torchrun(__file__, str(folder), cwd=folder)
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = pickle.loads((folder / "found").read_bytes())
    return found


@pytest.mark.parametrize("name", ["plain", "sparse", "norms", "gradual", "taught"])
def test_two_processes_agree_with_one(name: str, two: dict[str, Any]) -> None:
    training = trainings(task())[name]
    (stored,) = complete([training], Loop())
    one, found = facts(stored), two[name]
    assert found["numerics"]["engine"] == "ddp"
    assert found["numerics"]["processes"] == 2
    for row, wanted in zip(found["metrics"], one["metrics"], strict=True):
        for column in wanted.keys() & {"val_loss", "test_loss", "train_loss", "batch_loss"}:
            close = pytest.approx(wanted[column], abs=TOLERANCE, nan_ok=True)
            assert row[column] == close, (row["step"], column)
    for key, value in one["state"].items():
        torch.testing.assert_close(found["state"][key], value, rtol=1e-4, atol=TOLERANCE)
    assert all(torch.equal(found["mask"][n], m) for n, m in one["mask"].items())
    pruned = [
        masks.keep_top({n: f["state"][n].abs() for n in f["mask"]}, f["mask"], 60)
        for f in (one, found)
    ]
    assert all(torch.equal(pruned[0][n], pruned[1][n]) for n in pruned[0])


def test_a_stopped_training_goes_on_to_the_same_bits(two: dict[str, Any]) -> None:
    whole = two["norms"]["state"]
    assert all(torch.equal(two["gone on"][n], v) for n, v in whole.items())


def test_the_command_finds_the_ticket_of_one_process(tmp_path: Path) -> None:
    arguments = [
        "dataset=synthetic",
        "dataset.validation=64",
        "seeds=[0]",
        "levels=1",
        "train_steps=20it",
        "eval_every=10it",
        "batch_size=31",
        "baseline=[]",
        "report=false",
    ]
    result = torchrun("-m", "lth.run", *arguments, "engine=ddp", "store.root=two", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    # One process speaks, conducts and stores.
    assert result.stdout.count("Test accuracy in %") == 1
    (folder,) = runs(tmp_path / "two")
    info = folder.info()
    assert info is not None and len(info["invocations"]) == 1

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setattr("sys.argv", ["lth", *arguments, "engine=loop", "store.root=one", "sink=[]"])
        with pytest.raises(SystemExit) as end:
            run.main()
    assert end.value.code == 0
    for level in (0, 1):
        a, b = (
            locate(
                tmp_path / root / "run" / folder.run_id / f"seed_000/ticket/level_0{level}"
            ).stored()
            for root in ("one", "two")
        )
        assert all(torch.equal(m, b.mask()[n]) for n, m in a.mask().items())
        assert level or a.id == b.id
        losses = [[row["val_loss"] for row in s.metrics()] for s in (a, b)]
        assert losses[0] == pytest.approx(losses[1], abs=TOLERANCE)


@pytest.mark.parametrize("odd", ["workers=2", "-m"])
def test_one_run_at_a_time(odd: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "1")
    arguments = ["dataset=synthetic", "engine=ddp", "sink=[]", odd]
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("run", overrides=[a for a in arguments if a != "-m"])
    with pytest.raises(ConfigError, match="engine: got ddp under torchrun with " + odd):
        conduct(build(config), None, report=False, sweep="name" if odd == "-m" else None)


def test_a_device_of_its_own_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")

    class Elsewhere:
        device = "cuda:1"
        torch_device = torch.device("cuda:1")

    with pytest.raises(ValueError, match="device: got 'cuda:1', allowed: auto, cuda"):
        DDP().join(Elsewhere())  # type: ignore[arg-type]


def test_what_only_the_first_process_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    own = trainings(task())["plain"]
    corrupted = own.replace(task=corrupt(own.task, labels=True, pixels=False, seed=0))
    runtime = Runtime(device="cpu")
    assert DDP().refusal(corrupted, runtime) is None
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert DDP().refusal(own, runtime) is None
    assert "not corrupted ones" in (DDP().refusal(corrupted, runtime) or "")


def test_a_fault_of_the_configuration_is_named_once(tmp_path: Path) -> None:
    result = torchrun("-m", "lth.run", "engine=ddp", "levels=x", cwd=tmp_path)
    assert result.returncode != 0
    assert result.stderr.count("error: levels: got 'x', allowed: a whole number") == 1


@pytest.mark.parametrize("fault", ["levels=x", "batch_size=0"])
@pytest.mark.parametrize("rank", ["0", "1"])
def test_another_process_waits_for_the_first_to_name_a_fault(
    rank: str, fault: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("lth.run.time.sleep", waited.append)
    monkeypatch.setattr("sys.argv", ["lth", "engine=ddp", fault])
    monkeypatch.setenv("RANK", rank)
    try:
        code = run.main()
    except SystemExit as end:
        code = int(end.code or 0)
    assert code == run.AT_FAULT
    assert waited == ([run.PATIENCE] if rank == "1" else [])
    # It was not ended meanwhile, so the first process has no such fault.
    assert capsys.readouterr().err.count("error: ") == 1


if __name__ == "__main__":
    main(Path(sys.argv[1]))
