"""``python -m benchmarks.collapse --data DIR``: at which density a criterion empties a layer.

Tanaka et al. 2020, as ``methods`` of the field quote it: VGG-16 pruned at
initialisation by one global ranking. DIR holds class folders of pictures (CIFAR-10
as JPEG: train/CLASS/*). Densities are 10^-0.25, 10^-0.5, ... ; printed is the first
at which some layer keeps nothing. Nothing is trained.
"""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from lth.allocation.global_top import GlobalTop
from lth.criterion.grasp import GraSP
from lth.criterion.magnitude import magnitude
from lth.criterion.random import random
from lth.criterion.snip import SNIP
from lth.criterion.synflow import SynFlow
from lth.dataset.image_folder import ImageFolder
from lth.init.glorot_normal import GlorotNormal
from lth.init.kaiming_normal import KaimingNormal
from lth.lr.constant import Constant
from lth.model.vgg import VGG16
from lth.rewind.matrix import Matrix
from lth.schedule.targets import Targets
from lth.search import Search
from lth.training import LearningRate

ONCE: dict[str, Any] = {
    "random": random,
    "magnitude": magnitude,
    "SNIP": SNIP(),
    "GraSP": GraSP(),
    "SynFlow, one step": SynFlow(),
}
INITS: dict[str, Any] = {"Kaiming": KaimingNormal(), "Glorot": GlorotNormal()}


def smallest(source: ImageFolder, raw: Any, init: Any, criterion: Any, density: float, **own: int):
    """How many weights the layer keeps that keeps fewest."""
    seed = own["seed"]
    search = Search(
        seeds=(seed,),
        levels=1,
        tasks={seed: source.task(raw, seed=seed, batch_size=128)},
        model=functools.partial(VGG16, width=own.get("width", 64)),
        init=init,
        optimizer=functools.partial(torch.optim.SGD, lr=0.1),
        learning_rate=LearningRate(shape=Constant(), total=1),
        criterion=criterion,
        allocation=GlobalTop(),
        schedule=Targets(densities=[density]),
        rewind=Matrix(),
        baselines={},
        eval_every=1,
        prune_at=0,
        score_steps=own.get("steps", 1),
    )
    dense = search.dense(seed)
    untrained: Any = SimpleNamespace(
        id=dense.id,
        done={"first_step": 0},
        mask=lambda: dict(dense.mask),
        state=lambda when: dense.start,
    )
    mask = search.pruner.prune(search.history(untrained, untrained, seed), dense, seed, 1)
    return min(int(m.sum()) for m in mask.values())


def main() -> int:
    """Print a line for each criterion, initialisation and seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="class folders of pictures")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--synflow-steps", type=int, default=50)
    options = parser.parse_args()
    source = ImageFolder(size=32, subsample=0.1)
    raw = source.read(options.data)
    for init_name, init in INITS.items():
        for seed in range(options.seeds):
            for name, criterion in ONCE.items():
                at = functools.partial(smallest, source, raw, init, criterion, seed=seed)
                first = next((e for e in range(1, 21) if at(10 ** (-e / 4)) == 0), None)
                said = "empties no layer" if first is None else f"10^-{first / 4:.2f}"
                print(f"{init_name:8} seed {seed}  {name:18} {said}", flush=True)
        left = smallest(source, raw, init, SynFlow(), 1e-3, seed=0, steps=options.synflow_steps)
        print(
            f"{init_name:8} seed 0  SynFlow, {options.synflow_steps} steps: at 10^-3 every layer "
            f"keeps {left} weights or more",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
