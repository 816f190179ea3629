"""Every allocation: nested masks, exactly the promised counts, untouched inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from lth import mask as masks
from lth.protocol import Allocation
from lth.types import Mask

FILES = sorted((Path(__file__).parents[2] / "conf" / "allocation").glob("*.yaml"))
LAYERS = {"conv": "conv", "fc": "linear", "out": "output"}
SHAPES = {"conv": (4, 3, 3, 3), "fc": (30, 20), "out": (7, 5)}


def drawn(kind: str) -> dict[str, Tensor]:
    """Scores: all different, with many ties, or all zero."""
    stream = torch.Generator().manual_seed(3)
    noise = {n: torch.randn(s, generator=stream).abs() for n, s in SHAPES.items()}
    change = {"plain": lambda t: t, "ties": torch.round, "zeros": torch.zeros_like}[kind]
    return {n: change(t) for n, t in noise.items()}


@pytest.fixture(params=FILES, ids=lambda p: p.stem)
def allocation(request: pytest.FixtureRequest) -> Allocation:
    return instantiate(OmegaConf.load(request.param))  # type: ignore[no-any-return]


def spend(allocation: Allocation, scores: Any, mask: Mask, **budget: Any) -> Mask:
    options = {"rate": 0.3, "times": 1, "keep": None} | budget
    return allocation(scores, mask, layers=LAYERS, **options)


@pytest.mark.parametrize("kind", ["plain", "ties", "zeros"])
def test_masks_nest_and_counts_are_exact(allocation: Allocation, kind: str) -> None:
    scores = drawn(kind)
    mask: Mask = masks.full(scores, scores)
    untouched = {n: s.clone() for n, s in scores.items()}
    few, many = (masks.remaining(spend(allocation, scores, mask, rate=r)) for r in (0.6, 0.2))
    assert few <= many < masks.remaining(mask)
    for _ in range(8 if few < many else 1):  # where the rate has no say there is one level
        before = {n: m.clone() for n, m in mask.items()}
        child = spend(allocation, scores, mask)
        assert list(child) == list(mask)
        assert masks.nested(child, mask)
        assert all(m.dtype == torch.bool for m in child.values())
        assert masks.remaining(child) < masks.remaining(mask)
        assert all(torch.equal(mask[n], before[n]) for n in mask)
        again = spend(allocation, scores, mask)
        assert all(torch.equal(child[n], again[n]) for n in mask)
        # What a layer loses scores no higher than what it keeps.
        for name, kept in child.items():
            lost = mask[name] & ~kept
            if bool(lost.any()) and bool(kept.any()):
                assert scores[name][lost].max() <= scores[name][kept].min()
        mask = child
    assert all(torch.equal(scores[n], untouched[n]) for n in scores)


@pytest.mark.parametrize("kind", ["plain", "zeros"])
def test_a_total_is_met_exactly(allocation: Allocation, kind: str) -> None:
    scores = drawn(kind)
    mask: Mask = masks.full(scores, scores)
    for keep in (743, 742, 500, 101, 7, 1, 0):
        mask = spend(allocation, scores, mask, keep=keep)
        assert masks.remaining(mask) == keep
    with pytest.raises(ValueError, match="cannot keep"):
        spend(allocation, scores, mask, keep=1)


def test_several_rounds_at_once_prune_as_much(allocation: Allocation) -> None:
    scores = drawn("plain")
    mask: Mask = masks.full(scores, scores)
    at_once = spend(allocation, scores, mask, times=4)
    for _ in range(4):
        mask = spend(allocation, scores, mask)
    assert abs(masks.remaining(at_once) - masks.remaining(mask)) <= 3 * len(LAYERS)
    assert masks.nested(at_once, masks.full(scores, scores))


def test_every_file_and_module_is_covered() -> None:
    modules = {p.stem for p in (Path(__file__).parents[2] / "lth" / "allocation").glob("[a-z]*.py")}
    targets = {OmegaConf.load(path)["_target_"].split(".")[-2] for path in FILES}
    assert targets == modules - {"budget"}  # how both count
    assert len(FILES) >= 2
