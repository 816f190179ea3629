"""Every shipped optimizer: elementwise, and pruned weights stay exactly zero under it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from lth import mask as masks
from lth.optimizer import ELEMENTWISE, check_elementwise

FILES = sorted((Path(__file__).parents[2] / "conf" / "optimizer").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_optimizer(path: Path, make_search: Any, make_workshop: Any) -> None:
    optimizer = instantiate(OmegaConf.load(path), _partial_=True, _convert_="all")
    check_elementwise(optimizer)
    assert optimizer.func.__name__ in ELEMENTWISE
    training = make_search(optimizer=optimizer).dense(0)
    scores = {n: training.start.weights[n].abs() for n in training.mask}
    sparse = training.replace(mask=masks.keep_top(scores, training.mask, 90))
    (stored,) = make_workshop().complete([sparse])
    start, end = stored.state("start").weights, stored.state("end").weights
    for name, kept in sparse.mask.items():
        assert not bool(end[name][~kept].any())
        assert not torch.equal(start[name], end[name])
    assert stored.status == "done"


def test_there_are_files() -> None:
    assert len(FILES) >= 3
