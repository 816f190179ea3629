"""Every criterion: finite scores of the right names and shapes, from untouched inputs."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf

from lth import mask as masks
from lth.engine.batches import Batches
from lth.spec import state_digest, tensor_digest
from lth.stream import generator

FILES = sorted((Path(__file__).parents[2] / "conf" / "criterion").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
@pytest.mark.parametrize("density", [1.0, 0.4], ids=["dense", "sparse"])
def test_criterion(path: Path, density: float, make_search: Any, make_workshop: Any) -> None:
    config = OmegaConf.load(path)
    # Functions are called with what only the run knows, classes of components made now.
    criterion = instantiate(config, _partial_=not inspect.isclass(get_object(config["_target_"])))
    if hasattr(criterion, "per_class"):
        criterion = dataclasses.replace(criterion, per_class=2)  # the tiny set has few of a class
    search, workshop = make_search(criterion=criterion), make_workshop()
    dense = search.dense(0)
    (root,) = workshop.complete([dense], search.dense_watch())
    size = round(density * masks.size(dense.mask))
    magnitudes = {n: dense.start.weights[n].abs() for n in dense.mask}
    parent = dense.replace(mask=masks.keep_top(magnitudes, dense.mask, size))
    (stored,) = workshop.complete([parent], search.ticket_watch())
    history = search.history(root, stored, 0)
    free = {n: m for n, m in stored.mask().items() if n != "conv2.weight"}  # excluded
    batches = Batches(parent, torch.device("cpu"))

    def score() -> Any:
        return criterion(
            history,
            free,
            forward=search.pruner.forward(parent.task),
            batches=lambda: (batches(step) for step in range(parent.task.updates_per_epoch)),
            generator=generator("test"),
        )

    def seen() -> list[str]:
        states = (history.initial, history.rewound, history.parent_start, history.parent_end)
        return [*map(state_digest, states), tensor_digest(free), str(torch.get_rng_state().sum())]

    before = seen()
    first, second = score(), score()
    assert seen() == before
    assert first.keys() == free.keys()
    for name, values in first.items():
        assert values.shape == free[name].shape
        assert values.is_floating_point()
        assert bool(values.isfinite().all())
        assert torch.equal(values, second[name])
    # A criterion that cannot tell weights apart would prune by their position.
    assert len(torch.cat([v[free[n]] for n, v in first.items()]).unique()) > 20


def test_every_module_has_a_file() -> None:
    modules = {p.stem for p in (Path(__file__).parents[2] / "lth" / "criterion").glob("[a-z]*.py")}
    targets = {OmegaConf.load(path)["_target_"].split(".")[-2] for path in FILES}
    assert targets == modules
    assert len(FILES) >= 2
