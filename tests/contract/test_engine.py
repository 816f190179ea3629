"""Every engine agrees with ``loop``: losses within tolerance, zeros exact, the same mask."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from lth import mask
from lth.engine.loop import Loop
from lth.lr.constant import Constant
from lth.training import LearningRate

FILES = sorted((Path(__file__).parents[2] / "conf" / "engine").glob("*.yaml"))
TOLERANCE = 1e-4


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_engine(path, make_search, make_workshop) -> None:
    search = make_search(learning_rate=LearningRate(shape=Constant(), total=50), eval_every=10)
    dense = search.dense(0)
    scores = {n: dense.start.weights[n].abs() for n in dense.mask}
    sparse = dense.replace(mask=mask.keep_top(scores, dense.mask, 90))
    engine = instantiate(OmegaConf.load(path))
    own = make_workshop(engine=engine).complete([dense, sparse])
    reference = make_workshop(engine=Loop()).complete([dense, sparse])
    for a, b in zip(own, reference, strict=True):
        for row, wanted in zip(a.metrics(), b.metrics(), strict=True):
            assert row["val_loss"] == pytest.approx(wanted["val_loss"], abs=TOLERANCE)
        for name, kept in a.mask().items():
            assert torch.all(a.state("end").weights[name][~kept] == 0.0)
    # From the same end weights the same mask.
    ends = [s.state("end").weights for s in reference]
    masks = [mask.keep_top({n: e[n].abs() for n in dense.mask}, dense.mask, 50) for e in ends * 2]
    assert all(torch.equal(masks[0][n], masks[2][n]) for n in dense.mask)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
@pytest.mark.parametrize("size", [1, 2, 9])
def test_numbers_do_not_depend_on_the_cohort(path, size, make_search, make_workshop) -> None:
    search = make_search(seeds=range(9))
    engine = instantiate(OmegaConf.load(path))
    cohort = [search.dense(seed) for seed in range(size)]
    together = make_workshop(engine=engine).complete(cohort)
    (alone,) = make_workshop(engine=engine).complete(cohort[-1:])
    assert together[-1].done["digests"] == alone.done["digests"]
    # As text, because the first batch loss is NaN.
    assert repr(together[-1].metrics()) == repr(alone.metrics())


@pytest.mark.parametrize("name", ["LBFGS", "SparseAdam", "Adafactor"])
def test_optimizers_that_mix_weights_are_refused_by_name(name, make_search, make_workshop) -> None:
    search = make_search(optimizer=functools.partial(getattr(torch.optim, name), lr=0.1))
    with pytest.raises(ValueError, match=f"got {name}, allowed: torch.optim SGD, Adam"):
        make_workshop().complete([search.dense(0)])


def test_all_files_are_covered() -> None:
    assert {p.stem for p in FILES} == {"loop"}
