"""``python -m benchmarks.level [--data DIR]``: one dense LeNet level, ours and the usual way.

Batch 128, SGD 0.1, MNIST (or noise of its shape where DIR is not given). All
figures come from one run on one machine; only their ratios travel.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import usual
from lth.complete import Workshop
from lth.dataset.dataset import Raw
from lth.dataset.mnist import MNIST
from lth.dataset.synthetic import Synthetic
from lth.engine.auto import Auto
from lth.init.glorot_normal import GlorotNormal
from lth.lr.constant import Constant
from lth.model.lenet_300_100 import LeNet300100
from lth.runtime import Runtime
from lth.store.files import FileStore
from lth.training import LearningRate, Training, dense

BATCH, RATE = 128, 0.1


def level(raw: Raw, *, steps: int, eval_every: int) -> Training:
    """A dense level 0 of ``steps`` updates."""
    return dense(
        task=MNIST().task(raw, seed=0, batch_size=BATCH),
        model=LeNet300100,
        init=GlorotNormal(),
        optimizer=partial(torch.optim.SGD, lr=RATE),
        learning_rate=LearningRate(shape=Constant(), total=steps),
        seed=0,
        eval_every=eval_every,
    )


def timed(job: Any) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    job()
    return time.perf_counter() - began


def workshop_at(root: str, threads: int) -> Workshop:
    """What a run has, with the engine that it chooses by default."""
    runtime = Runtime(device="cpu", num_threads=threads)
    return Workshop(store=FileStore(root), runtime=runtime, engine=Auto())


def updates_alone(training: Training, threads: int = 1) -> float:
    """Seconds of a training without evaluation, checkpoints and storing."""
    workshop = workshop_at("unused", threads)

    def run() -> None:
        list(
            workshop.engine.train(
                [training],
                events=lambda t: [],
                resume=lambda t: None,
                runtime=workshop.runtime,
            )
        )

    return timed(run)


def whole_level(training: Training, threads: int = 1) -> float:
    """Seconds of the same training with everything: evaluation, checkpoints, storing."""
    with tempfile.TemporaryDirectory() as root:
        workshop = workshop_at(root, threads)
        return timed(lambda: workshop.complete([training]))


def command(options: argparse.Namespace, root: str) -> None:
    """The same level by the command that a user types, table included."""
    noise = ["dataset=synthetic", "dataset.shape=[1,28,28]", "dataset.train=60000"]
    data = ["dataset=mnist", f"data_dir={options.data}"] if options.data else noise
    arguments = [
        *data,
        "optimizer=sgd",
        f"optimizer.lr={RATE}",
        f"batch_size={BATCH}",
        f"train_steps={options.steps}it",
        f"eval_every={options.eval_every}it",
        "seeds=[0]",
        "levels=0",
        "sink=[console]",
        "report=false",
        f"store.root={root}",
    ]
    subprocess.run(
        [sys.executable, "-m", "lth.run", *arguments], check=True, stdout=subprocess.DEVNULL
    )


def main() -> int:
    """Print the table, and JSON where asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="a directory with MNIST")
    parser.add_argument("--steps", type=int, default=5000, help="updates of our level")
    parser.add_argument("--usual-steps", type=int, default=400, help="updates of the usual way")
    parser.add_argument("--eval-every", type=int, default=100)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    options.data = options.data and options.data.resolve()
    start_up = timed(
        lambda: subprocess.run([sys.executable, "-c", "import lth.conduct"], check=True)
    )
    blank = timed(lambda: subprocess.run([sys.executable, "-c", "import torch"], check=True))
    source = MNIST() if options.data else Synthetic(shape=(1, 28, 28), train=60000, test=10000)
    box: list[Raw] = []
    reading = timed(lambda: box.append(source.read(options.data or Path())))
    raw = box[0]
    if not options.data:
        # Noise as bytes, so that both ways gather what MNIST would have them gather.
        raw = Raw(raw.x_train.mul(20).add(128).byte(), raw.y_train, raw.x_test, raw.y_test, 10)
        raw = Raw(raw.x_train, raw.y_train, raw.x_test.mul(20).add(128).byte(), raw.y_test, 10)
    training = level(raw, steps=options.steps, eval_every=options.eval_every)

    # First updates warm caches and allocators on both sides.
    updates_alone(level(raw, steps=100, eval_every=100))
    ours = updates_alone(training)
    everything = whole_level(training)
    with tempfile.TemporaryDirectory() as root:
        run = timed(lambda: command(options, root))
    ours_two, everything_two = updates_alone(training, 2), whole_level(training, 2)
    theirs = {}
    pictures = (
        usual.mnist(options.data) if options.data else usual.Pictures(raw.x_train, raw.y_train)
    )
    for threads in (1, 2):
        torch.set_num_threads(threads)
        theirs[threads] = timed(
            lambda: usual.train(pictures, steps=options.usual_steps, batch_size=BATCH, rate=RATE)
        )
    torch.set_num_threads(1)
    floor_step = timed(lambda: usual.floor(1000, batch_size=BATCH))
    torch.set_num_threads(2)
    floor_two = timed(lambda: usual.floor(1000, batch_size=BATCH))
    torch.set_num_threads(1)
    task = training.task
    evaluated = len(task.validation) + len(task.test)
    one_evaluation = timed(
        lambda: usual.evaluate(usual.first(pictures, evaluated), batch_size=BATCH)
    )
    ours_step = 1e3 * ours / options.steps
    theirs_step = {k: 1e3 * v / options.usual_steps for k, v in theirs.items()}
    # The usual way evaluates validation and test at every grid point; extrapolated.
    # Torch uses every core unless told otherwise; what is faster with one thread is given too.
    evaluations = len(training.grid()) * one_evaluation
    levels = {k: v * options.steps / 1e3 + evaluations for k, v in theirs_step.items()}
    figures = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores; ours on 1 thread",
        "torch": torch.__version__,
        "data": "MNIST" if options.data else "noise",
        "steps": options.steps,
        "eval_every": options.eval_every,
        "ms_per_update_ours": ours_step,
        "ms_per_update_usual": theirs_step,
        "ms_per_update_floor": floor_step,
        "ms_per_update_floor_2_threads": floor_two,
        "ms_per_update_ours_2_threads": 1e3 * ours_two / options.steps,
        "times_floor": ours_step / floor_step,
        "times_faster_update": min(theirs_step.values()) / ours_step,
        "seconds_level_ours": everything,
        "seconds_level_usual": levels,
        "times_faster_level": min(levels.values()) / everything,
        "seconds_level_ours_2_threads": everything_two,
        "times_faster_level_2_threads": min(levels.values()) / everything_two,
        "times_faster_level_2_threads_both": levels[2] / everything_two,
        "seconds_updates": ours,
        "seconds_evaluation_and_storing": everything - ours,
        "seconds_start_up": start_up,
        "seconds_import_torch_alone": blank,
        "seconds_reading": reading,
        "seconds_command": run,
        "share_outside_updates": 1 - ours / run,
        "peak_resident_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    for name, value in figures.items():
        print(f"{name:32} {value:.3f}" if isinstance(value, float) else f"{name:32} {value}")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
