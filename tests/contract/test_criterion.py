"""Every criterion: finite scores of the right names and shapes, from untouched inputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from lth import mask
from lth.spec import state_digest
from lth.stream import generator

FILES = sorted((Path(__file__).parents[2] / "conf" / "criterion").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_criterion(path, make_search, make_workshop) -> None:
    search, workshop = make_search(), make_workshop()
    dense = search.dense(0)
    (stored,) = workshop.complete([dense], search.dense_watch())
    history = search.history(stored, stored, 0)
    criterion = instantiate(OmegaConf.load(path), _partial_=True)
    before = state_digest(history.parent_end)

    def score() -> dict[str, torch.Tensor]:
        return criterion(
            history,
            dense.mask,
            forward=search._forward(dense.task),
            batches=lambda: iter([dense.task.train.gather(torch.arange(16))]),
            generator=generator("test"),
        )

    first, second = score(), score()
    assert first.keys() == dense.mask.keys()
    for name, values in first.items():
        assert values.shape == dense.mask[name].shape
        assert values.is_floating_point()
        assert bool(values.isfinite().all())
        assert torch.equal(values, second[name])
    assert state_digest(history.parent_end) == before
    assert mask.nested(mask.keep_top(first, dense.mask, 10), dense.mask)


def test_magnitude_scores_the_absolute_value_of_the_scored_state(
    make_search, make_workshop
) -> None:
    search, workshop = make_search(), make_workshop()
    (stored,) = workshop.complete([search.dense(0)], search.dense_watch())
    history = search.history(stored, stored, 0)
    scores = search.criterion(
        history, search.dense(0).mask, forward=None, batches=None, generator=None
    )
    end = stored.state("end").weights
    assert any(bool((end[n] < 0).any()) for n in scores)
    for name, values in scores.items():
        assert torch.equal(values, end[name].abs())


def test_all_files_are_covered() -> None:
    assert len(FILES) == len(
        list((Path(__file__).parents[2] / "lth" / "criterion").glob("[a-z]*.py"))
    )
