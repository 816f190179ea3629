"""``python -m benchmarks.experiment --data DIR``: a whole experiment, against two other ways.

LeNet-300-100 on MNIST as in 2019 (batch 60, Adam, 20 % a level): 20 levels, 3
seeds, the ticket with ``random_reinit`` and ``shuffled_mask``, 2,000 updates,
validation every 100. Ours is run whole, by the command that a user types. (b) a
good plain loop on resident tensors and (a) the usual way (torchvision, DataLoader,
mask in the forward pass) are extrapolated from their updates and evaluations; both
look at test twice a training, as ours does.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks import usual
from benchmarks.cohort import ADAM, milliseconds, plainly, training
from lth.dataset.mnist import MNIST
from lth.store.files import FileStore

BATCH = 60


def ours(options: argparse.Namespace, root: str) -> float:
    """Seconds of the command, start-up and table included."""
    command = [
        sys.executable,
        "-m",
        "lth.run",
        "experiments=lenet_mnist",
        f"seeds={list(range(options.seeds))}",
        f"levels={options.levels}",
        f"train_steps={options.steps}it",
        "baseline=[random_reinit,shuffled_mask]",
        "baseline.random_reinit.draws=1",
        "sink=[console]",
        "report=false",
        f"workers={options.workers}",
        f"data_dir={options.data}",
        f"store.root={root}",
    ]
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def plain(options: argparse.Namespace) -> tuple[float, float, float]:
    """Seconds of one update, one look at validation and one at test, by the plain loop."""
    task = MNIST().task(MNIST().read(options.data), seed=0, batch_size=BATCH)
    own = training(task, 0, 1.0, ADAM, 200)
    net = own.model(input_shape=task.input_shape, num_classes=task.num_classes).eval()

    def look(split: Any) -> None:
        with torch.no_grad():
            for rows in torch.arange(len(split)).split(1000):
                x, y = split.gather(rows)
                F.cross_entropy(net(x), y).item()

    update = milliseconds(lambda: plainly(own), 200, 3) / 1e3
    looks = [milliseconds(partial(look, s), 1, 3) / 1e3 for s in (task.validation, task.test)]
    return update, looks[0], looks[1]


def usually(options: argparse.Namespace) -> tuple[float, float]:
    """Seconds of one update and of a look at one image, by the usual way."""
    pictures = usual.mnist(options.data)
    began = time.perf_counter()
    usual.train(pictures, steps=300, batch_size=BATCH, rate=0.1)
    update = (time.perf_counter() - began) / 300
    began = time.perf_counter()
    usual.evaluate(usual.first(pictures, 5000), batch_size=BATCH)
    return update, (time.perf_counter() - began) / 5000


def by_level(root: str) -> dict[str, list[float]]:
    """Mean seconds and bytes of a Training, by density (three digits), densest first."""
    store, found = FileStore(root), {}
    for training_id in store.ids():
        stored = store.peek(training_id)
        assert stored is not None
        size = sum(p.stat().st_size for p in store.folder(training_id).path.iterdir())
        key = f"{stored.done['density']:.3g}"
        found.setdefault(key, []).append((stored.done["seconds"], size))
    order = sorted(found, key=float, reverse=True)
    means = {k: [sum(v[i] for v in found[k]) / len(found[k]) for i in (0, 1)] for k in order}
    return {k: [round(seconds, 3), round(size)] for k, (seconds, size) in means.items()}


def main() -> int:
    """Print the figures, and JSON where asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a directory with MNIST")
    parser.add_argument("--levels", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.data = options.data.resolve()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        seconds = ours(options, root)
        levels = by_level(root)
    update, validation, test = plain(options)
    usual_update, image = usually(options)
    trainings = options.seeds * (1 + 3 * options.levels)
    looks = options.steps // 100 + 1
    one_plain = options.steps * update + looks * validation + 2 * test
    one_usual = options.steps * usual_update + image * (looks * 5000 + 2 * 10000)
    figures = {
        "cores": os.cpu_count(),
        "workers": options.workers,
        "torch": torch.__version__,
        "trainings": trainings,
        "updates_each": options.steps,
        "seconds_ours": seconds,
        "seconds_plain_loop": trainings * one_plain,
        "seconds_usual_way": trainings * one_usual,
        "times_faster_than_plain_loop": trainings * one_plain / seconds,
        "times_faster_than_usual_way": trainings * one_usual / seconds,
        "ms_per_update_plain": 1e3 * update,
        "ms_per_update_usual": 1e3 * usual_update,
        "peak_resident_mb_of_one_process": (
            resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        ),
        "seconds_and_bytes_per_training_by_density": levels,
    }
    for name, value in figures.items():
        print(f"{name:34} {value:.3f}" if isinstance(value, float) else f"{name:34} {value}")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
