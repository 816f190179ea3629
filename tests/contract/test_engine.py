"""Every engine agrees with ``loop``: losses within tolerance, zeros exact, the same mask."""

from __future__ import annotations

import functools
import importlib
import inspect
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from lth import mask
from lth.engine.loop import Loop
from lth.lr.constant import Constant
from lth.protocol import Engine
from lth.runtime import Runtime
from lth.training import LearningRate, Training

FILES = sorted((Path(__file__).parents[2] / "conf" / "engine").glob("*.yaml"))
TOLERANCE = 1e-4


class Perceptron(nn.Sequential):
    """What every engine can train."""

    def __init__(self, *, input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(
            nn.Flatten(), nn.Linear(36, 12), nn.ReLU(), nn.Linear(12, num_classes, bias=False)
        )


@pytest.fixture
def nets(TinyBatchNorm) -> dict[str, list[type[nn.Module]]]:
    """The models that each engine claims."""
    return {
        "mlp": [Perceptron],
        "loop": [Perceptron, TinyBatchNorm],
        "stacked": [Perceptron, TinyBatchNorm],
        "auto": [Perceptron, TinyBatchNorm],
        "graph": [Perceptron, TinyBatchNorm],
        "ddp": [Perceptron, TinyBatchNorm],
    }


def built(path: Path, training: Training) -> Engine:
    """The engine of a file; skips where it refuses the CPU."""
    engine = instantiate(OmegaConf.load(path))
    refusal = getattr(engine, "refusal", lambda training, runtime: None)
    reason = refusal(training, Runtime(device="cpu"))
    if reason is not None:
        pytest.skip(f"{path.stem} {reason}")
    return engine


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_engine(path, nets, make_search, make_workshop) -> None:
    for model in nets[path.stem]:
        agrees(path, model, make_search, make_workshop)


def agrees(path, model, make_search, make_workshop) -> None:
    rate = LearningRate(shape=Constant(), total=50)
    search = make_search(learning_rate=rate, eval_every=10, model=model)
    dense = search.dense(0)
    scores = {n: dense.start.weights[n].abs() for n in dense.mask}
    sparse = dense.replace(mask=mask.keep_top(scores, dense.mask, 90))
    engine = built(path, dense)
    own = make_workshop(engine=engine).complete([dense, sparse])
    reference = make_workshop(engine=Loop()).complete([dense, sparse])
    for a, b in zip(own, reference, strict=True):
        for row, wanted in zip(a.metrics(), b.metrics(), strict=True):
            for column in row.keys() & {"val_loss", "test_loss", "train_loss", "batch_loss"}:
                close = pytest.approx(wanted[column], abs=TOLERANCE, nan_ok=True)
                assert row[column] == close, (row["step"], column)
        for name, kept in a.mask().items():
            assert torch.all(a.state("end").weights[name][~kept] == 0.0)
    # From the same end weights the same mask: what an engine gives back is what it was given.
    for stored, training in zip(reference, (dense, sparse), strict=True):
        end = stored.state("end")
        idle = training.replace(start=end, first_step=50)
        (back,) = make_workshop(engine=engine).complete([idle])
        pair = [
            mask.keep_top({n: s.weights[n].abs() for n in dense.mask}, training.mask, 50)
            for s in (end, back.state("end"))
        ]
        assert all(torch.equal(pair[0][n], pair[1][n]) for n in dense.mask)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
@pytest.mark.parametrize("size", [1, 2, 9])
def test_numbers_do_not_depend_on_the_cohort(path, size, nets, make_search, make_workshop) -> None:
    search = make_search(seeds=range(9), model=nets[path.stem][-1])
    cohort = [search.dense(seed) for seed in range(size)]
    engine = built(path, cohort[0])
    assert [t.id for group in engine.groups(cohort, Runtime(device="cpu")) for t in group] == [
        t.id for t in cohort
    ]
    together = make_workshop(engine=engine).complete(cohort)
    (alone,) = make_workshop(engine=engine).complete(cohort[-1:])
    assert together[-1].done["digests"] == alone.done["digests"]
    # As text, because the first batch loss is NaN.
    assert repr(together[-1].metrics()) == repr(alone.metrics())


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_optimizers_that_mix_weights_are_refused_by_name(path, make_search, make_workshop) -> None:
    lbfgs = functools.partial(torch.optim.LBFGS, lr=0.1)
    search = make_search(optimizer=lbfgs, model=Perceptron)
    with pytest.raises(ValueError, match="got LBFGS, allowed: torch.optim SGD, Adam"):
        make_workshop(engine=built(path, search.dense(0))).complete([search.dense(0)])


def test_every_engine_has_a_file() -> None:
    classes = {
        f"lth.engine.{path.stem}.{name}"
        for path in (Path(__file__).parents[2] / "lth" / "engine").glob("[a-z]*.py")
        for name, value in vars(importlib.import_module(f"lth.engine.{path.stem}")).items()
        if inspect.isclass(value)
        and issubclass(value, Engine)
        and not getattr(value, "_is_protocol", False)
        and value.__module__ == f"lth.engine.{path.stem}"
    }
    assert classes == {OmegaConf.load(path)["_target_"] for path in FILES}
    assert "lth.engine.loop.Loop" in classes
