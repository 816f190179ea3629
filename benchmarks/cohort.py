"""``python -m benchmarks.cohort``: milliseconds per network and update, by density and cohort.

LeNet-300-100 on noise of MNIST's shape and on digits, Conv-2 and ResNet-20 on
noise of CIFAR's. Against a good plain PyTorch loop on resident tensors
(autograd, torch.optim, weights masked after each update). Minima over repeats,
all in one run; only ratios travel.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.usual import floor
from lth import mask as masks
from lth.dataset.dataset import DataSet
from lth.dataset.digits import Digits
from lth.dataset.synthetic import Synthetic
from lth.dataset.task import Task
from lth.engine.batches import Batches
from lth.engine.loop import Loop
from lth.engine.mlp import MLP
from lth.engine.stacked import Stacked
from lth.init.glorot_normal import GlorotNormal
from lth.lr.constant import Constant
from lth.model.conv import Conv2
from lth.model.lenet_300_100 import LeNet300100
from lth.model.resnet import ResNet20
from lth.runtime import Runtime
from lth.training import LearningRate, Training, dense

ADAM = partial(torch.optim.Adam, lr=1.2e-3)
SGD = partial(torch.optim.SGD, lr=0.1)


MOMENTUM = partial(torch.optim.SGD, lr=0.03, momentum=0.9, weight_decay=1e-4)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """One row's network, data and optimizer; ``engines`` are timed beside plain and ``loop``."""

    name: str
    source: DataSet
    batch: int
    optimizer: Any
    model: Any = LeNet300100
    densities: tuple[float, ...] = (1.0, 0.2, 0.05, 0.02, 0.015, 0.01)
    cohorts: tuple[int, ...] = (1, 3, 9)
    engine: Any = MLP
    every: int = 1
    """Updates that stand for one of ``--steps``: slow networks make fewer."""


_MNIST = Synthetic(shape=(1, 28, 28), train=12000, test=100)
_CIFAR = Synthetic(shape=(3, 32, 32), train=4000, test=100)
SETUPS = (
    Setup(name="LeNet, 784, batch 60, Adam", source=_MNIST, batch=60, optimizer=ADAM),
    Setup(name="LeNet, 784, batch 128, SGD", source=_MNIST, batch=128, optimizer=SGD),
    Setup(name="LeNet, digits, batch 60, Adam", source=Digits(), batch=60, optimizer=ADAM),
    Setup(
        name="LeNet, digits, stacked",
        source=Digits(),
        batch=60,
        optimizer=ADAM,
        densities=(1.0, 0.05, 0.01),
        engine=Stacked,
    ),
    Setup(
        name="Conv-2, batch 60, Adam",
        source=_CIFAR,
        batch=60,
        optimizer=ADAM,
        model=Conv2,
        densities=(1.0, 0.2, 0.05, 0.02, 0.01),
        engine=Stacked,
        every=20,
    ),
    Setup(
        name="ResNet-20, batch 128, SGD",
        source=_CIFAR,
        batch=128,
        optimizer=MOMENTUM,
        model=ResNet20,
        densities=(1.0, 0.2, 0.05, 0.02, 0.01),
        engine=Stacked,
        every=50,
    ),
)


def training(
    task: Task, index: int, density: float, optimizer: Any, steps: int, model: Any = LeNet300100
) -> Training:
    """A network of one density, its survivors spread evenly; three share a seed and its data."""
    whole = dense(
        task=task,
        model=model,
        init=GlorotNormal(),
        optimizer=optimizer,
        learning_rate=LearningRate(shape=Constant(), total=steps),
        seed=index // 3,
        eval_every=steps,
    )
    if density == 1:
        return whole
    draw = torch.Generator().manual_seed(index)
    scores = {n: torch.rand(m.shape, generator=draw) for n, m in whole.mask.items()}
    count = round(density * masks.size(whole.mask))
    return whole.replace(mask=masks.keep_top(scores, whole.mask, count))


def by_engine(engine: Any, cohort: list[Training]) -> None:
    """The updates alone, without evaluation and storing."""
    runtime = Runtime(device="cpu")
    list(engine.train(cohort, events=lambda t: [], resume=lambda t: None, runtime=runtime))


def plainly(t: Training) -> None:
    """The loop that one would write."""
    net = t.model(input_shape=t.task.input_shape, num_classes=t.task.num_classes)
    optimizer = t.optimizer(net.parameters())
    named, batches = dict(net.named_parameters()), Batches(t, torch.device("cpu"))
    kept = {n: m.float() for n, m in t.mask.items()}
    for step in range(t.last_step):
        x, y = batches(step)
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
        with torch.no_grad():
            for name, mask in kept.items():
                named[name] *= mask


def milliseconds(job: Any, updates: int, repeats: int) -> float:
    """The best of some repeats, per update."""
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        job()
        best = min(best, time.perf_counter() - began)
    return 1e3 * best / updates


def floors(setup: Setup, inputs: int, steps: int, repeats: int) -> tuple[float, float]:
    """Milliseconds of a dense LeNet's matrix products, and with its optimizer's memory traffic.

    Adam reads weight, gradient and both moments and writes three of them: 28
    bytes a weight; SGD 12. The bandwidth is that of copying 128 MB.
    """
    job = partial(floor, steps, batch_size=setup.batch, inputs=inputs)
    products = milliseconds(job, steps, repeats)
    source = torch.zeros(16 * 2**20)
    target = torch.empty_like(source)
    copying = milliseconds(lambda: target.copy_(source), 1, 10)
    per_byte = copying / (2 * 4 * source.numel())
    weights = inputs * 300 + 300 * 100 + 100 * 10
    return products, products + weights * (28 if setup.optimizer is ADAM else 12) * per_byte


def main() -> int:
    """Print the table, and JSON where asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", help="only rows whose name holds this")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    print(f"{'':31}density    plain     loop   cohort: ms each")
    for setup in SETUPS:
        if options.only not in setup.name:
            continue
        steps = max(2, options.steps // setup.every)
        raw = setup.source.read(Path("data"))
        tasks = [setup.source.task(raw, seed=s, batch_size=setup.batch) for s in range(3)]
        if setup.model is LeNet300100 and setup.engine is MLP:
            inputs = tasks[0].input_shape[1] ** 2
            alone, moving = floors(setup, inputs, steps, options.repeats)
            rows.append({"what": setup.name, "floor": alone, "floor_with_memory": moving})
            print(
                f"{setup.name:31}  floor: matrix products alone {alone:.3f}, "
                f"with the optimizer's memory traffic {moving:.3f}"
            )
        for density in setup.densities:
            nets = [
                training(tasks[i // 3], i, density, setup.optimizer, steps, setup.model)
                for i in range(max(setup.cohorts))
            ]
            timed = partial(milliseconds, repeats=options.repeats)
            row = {
                "what": setup.name,
                "density": density,
                "plain": timed(lambda n=nets: plainly(n[0]), steps),
                "loop": timed(lambda n=nets: by_engine(Loop(), n[:1]), steps),
            }
            name = setup.engine.__name__.lower()
            for size in setup.cohorts:
                job = partial(by_engine, setup.engine(cohort=size), nets[:size])
                row[f"{name}_{size}"] = timed(job, steps * size)
            rows.append(row)
            cells = "".join(f"   {name} x{n} {row[f'{name}_{n}']:.3f}" for n in setup.cohorts)
            print(
                f"{setup.name:31}{density:7.3f}{row['plain']:9.3f}{row['loop']:9.3f}{cells}",
                flush=True,
            )
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
