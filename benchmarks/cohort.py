"""``python -m benchmarks.cohort``: milliseconds per network and update, by density and cohort.

LeNet-300-100 on noise of MNIST's shape and on digits. Against a good plain
PyTorch loop on resident tensors (autograd, torch.optim, weights masked after
each update). Minima over repeats, all in one run; only ratios travel.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from lth import mask as masks
from lth.dataset.digits import Digits
from lth.dataset.synthetic import Synthetic
from lth.dataset.task import Task
from lth.engine.batches import Batches
from lth.engine.loop import Loop
from lth.engine.mlp import MLP
from lth.init.glorot_normal import GlorotNormal
from lth.lr.constant import Constant
from lth.model.lenet_300_100 import LeNet300100
from lth.runtime import Runtime
from lth.training import LearningRate, Training, dense

DENSITIES = (1.0, 0.2, 0.05, 0.02, 0.015)
COHORTS = (1, 3, 9)
ADAM = partial(torch.optim.Adam, lr=1.2e-3)
SGD = partial(torch.optim.SGD, lr=0.1)


def training(task: Task, index: int, density: float, optimizer: Any, steps: int) -> Training:
    """A network of one density, its survivors spread evenly; three share a seed and its data."""
    whole = dense(
        task=task,
        model=LeNet300100,
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


def main() -> int:
    """Print the table, and JSON where asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    noise = Synthetic(shape=(1, 28, 28), train=12000, test=100)
    sources = {"784 inputs": noise, "digits": Digits()}
    raws = {name: source.read(Path("data")) for name, source in sources.items()}
    rows = []
    print(f"{'':28}density   plain    loop   " + "".join(f"   mlp x{n}" for n in COHORTS))
    for name, batch, kind, optimizer in (
        ("784 inputs", 60, "Adam", ADAM),
        ("784 inputs", 128, "SGD", SGD),
        ("digits", 60, "Adam", ADAM),
    ):
        tasks = [sources[name].task(raws[name], seed=s, batch_size=batch) for s in range(3)]
        for density in DENSITIES:
            nets = [
                training(tasks[i // 3], i, density, optimizer, options.steps)
                for i in range(max(COHORTS))
            ]
            timed = partial(milliseconds, repeats=options.repeats)
            row = {
                "what": f"{name}, batch {batch}, {kind}",
                "density": density,
                "plain": timed(lambda n=nets: plainly(n[0]), options.steps),
                "loop": timed(lambda n=nets: by_engine(Loop(), n[:1]), options.steps),
            }
            for size in COHORTS:
                job = partial(by_engine, MLP(cohort=size), nets[:size])
                row[f"mlp_{size}"] = timed(job, options.steps * size)
            rows.append(row)
            cells = "".join(f"{row[f'mlp_{n}']:9.3f}" for n in COHORTS)
            print(
                f"{row['what']:28}{density:7.3f}{row['plain']:8.3f}{row['loop']:8.3f}   {cells}",
                flush=True,
            )
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
