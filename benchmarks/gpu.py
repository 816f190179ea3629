"""``python -m benchmarks.gpu``: network-updates per second on a GPU, by engine.

LeNet-300-100 (batch 60, Adam) in a cohort of 32 and ResNet-20 (batch 128, SGD,
bf16, crop and flip) in a cohort of 8, on noise of MNIST's and CIFAR's shapes,
against the plain loop; and how long a ResNet-20 level of 160 epochs takes.
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

from benchmarks.cohort import ADAM, MOMENTUM, training
from lth.dataset.synthetic import Synthetic
from lth.engine.batches import Batches
from lth.engine.graph import Graph
from lth.engine.loop import Loop
from lth.engine.stacked import Stacked
from lth.model.lenet_300_100 import LeNet300100
from lth.model.resnet import ResNet20
from lth.runtime import Runtime
from lth.training import Training

EPOCHS, UPDATES_PER_EPOCH = 160, 390


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A network, its data, and the engines that are timed on a cohort of it."""

    name: str
    source: Any
    model: Any
    optimizer: Any
    batch: int
    precision: str
    cohort: int
    engines: dict[str, Any]
    steps: int


def setups(cohorts: tuple[int, int], steps: int) -> list[Setup]:
    """LeNet and ResNet-20, as the targets are stated for them."""
    small, large = cohorts
    return [
        Setup(
            name="LeNet-300-100, batch 60, Adam",
            source=Synthetic(shape=(1, 28, 28), train=12000, test=100),
            model=LeNet300100,
            optimizer=ADAM,
            batch=60,
            precision="fp32",
            cohort=small,
            engines={
                "loop": Loop(),
                "stacked": Stacked(cohort=small),
                "stacked, compiled": Stacked(cohort=small, compile_from=1),
                "graph": Graph(cohort=small),
            },
            steps=steps,
        ),
        Setup(
            name="ResNet-20, batch 128, SGD, bf16",
            source=Synthetic(shape=(3, 32, 32), train=12000, test=100, crop=4, flip=True),
            model=ResNet20,
            optimizer=MOMENTUM,
            batch=128,
            precision="bf16",
            cohort=large,
            engines={
                "loop": Loop(),
                "loop, channels last": Loop(channels_last=True),
                "loop, compiled": Loop(compile=True),
                "stacked": Stacked(cohort=large),
                "graph": Graph(cohort=large),
                "graph, channels last": Graph(cohort=large, channels_last=True),
                "graph, channels last, alone": Graph(cohort=1, channels_last=True),
            },
            steps=max(2, steps // 5),
        ),
    ]


def plainly(t: Training, device: torch.device) -> None:
    """The loop that one would write, on a device."""
    net = t.model(input_shape=t.task.input_shape, num_classes=t.task.num_classes).to(device)
    optimizer, batches = t.optimizer(net.parameters()), Batches(t, device)
    low = torch.autocast(device.type, dtype=torch.bfloat16, enabled=t.precision == "bf16")
    for step in range(t.last_step):
        x, y = batches(step)
        optimizer.zero_grad()
        with low:
            loss = F.cross_entropy(net(x).float(), y)
        loss.backward()
        optimizer.step()


def per_second(job: Any, updates: int, device: torch.device) -> float:
    """Network-updates per second, the second time round (kernels chosen, memory allocated)."""
    job()
    _wait(device)
    began = time.perf_counter()
    job()
    _wait(device)
    return updates / (time.perf_counter() - began)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def by_engine(engine: Any, nets: list[Training], runtime: Runtime) -> None:
    """The updates alone, without evaluation and storing."""
    for group in engine.groups(nets, runtime):
        list(engine.train(group, events=lambda t: [], resume=lambda t: None, runtime=runtime))


def main() -> int:
    """Print the table, and JSON where asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--cohorts", type=int, nargs=2, default=(32, 8), help="LeNet, ResNet-20")
    parser.add_argument("--device", default="cuda", help="cpu only shows that the command works")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    try:
        runtime = Runtime(device=options.device)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    device = runtime.torch_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}; network-updates per second (times the plain loop)")
    found: dict[str, dict[str, float]] = {}
    for setup in setups(tuple(options.cohorts), options.steps):
        raw = setup.source.read(Path("data")).to(device)
        tasks = [setup.source.task(raw, seed=s, batch_size=setup.batch) for s in range(3)]
        nets = [
            training(tasks[i % 3], 3 * i, 1.0, setup.optimizer, setup.steps, setup.model).replace(
                precision=setup.precision
            )
            for i in range(setup.cohort)
        ]
        print(f"{setup.name}, cohort of {setup.cohort}, {setup.steps} updates")
        plain = per_second(lambda n=nets: plainly(n[0], device), setup.steps, device)
        rows = {"plain loop": plain}
        print(f"  {'plain loop':30}{plain:10.0f}", flush=True)
        for label, engine in setup.engines.items():
            ask = getattr(engine, "refusal", lambda training, runtime: None)
            reason = ask(nets[0], runtime)
            if reason is not None:
                print(f"  {label:30}   refused: {reason}", flush=True)
                continue
            job = partial(by_engine, engine, nets, runtime)
            rows[label] = per_second(job, setup.steps * len(nets), device)
            print(f"  {label:30}{rows[label]:10.0f} ({rows[label] / plain:.1f}x)", flush=True)
        found[setup.name] = rows
    alone = found["ResNet-20, batch 128, SGD, bf16"].get("graph, channels last, alone")
    if alone:
        seconds = EPOCHS * UPDATES_PER_EPOCH / alone
        print(f"a ResNet-20 level of {EPOCHS} epochs: {seconds:.0f} s of updates (extrapolated)")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"device": name, **found}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
