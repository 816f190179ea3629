"""A pruned Training of the tiny BatchNorm network, a result of it, and stores to put it into."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lth.complete import Watch
from lth.engine.loop import Loop
from lth.event.evaluate import Evaluate
from lth.event.gradient_norm import GradientNorm
from lth.event.keep import Keep
from lth.protocol import Result
from lth.runtime import Runtime
from lth.store.blob_store import BlobStore
from lth.store.files import FileStore
from lth.store.memory import MemoryStore
from lth.training import Training


@pytest.fixture(scope="session")
def pruned(make_search: Callable[..., Any]) -> Training:
    """Steps 5 to 14 of the tiny network with about half of its weights."""
    dense = make_search().dense(0)
    generator = torch.Generator().manual_seed(0)
    mask = {n: torch.rand(m.shape, generator=generator) < 0.5 for n, m in dense.mask.items()}
    training: Training = dense.replace(mask=mask, first_step=5)
    return training


@pytest.fixture(scope="session")
def result(pruned: Training) -> Result:
    """All that can be recorded: two kept states, one of them with slots, and a probe."""
    events = [
        Evaluate(keep=True),
        Keep(at=frozenset({7}), optimizer=True),
        GradientNorm(),
    ]
    (result,) = Loop().train(
        [pruned], events=lambda t: events, resume=lambda t: None, runtime=Runtime(device="cpu")
    )
    return result


@pytest.fixture(scope="session")
def observed() -> dict[str, Any]:
    """What ``done.json`` is told that ``result`` recorded."""
    return Watch(probes={"gradient_norm": GradientNorm()}).observed()


@pytest.fixture(params=["files", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    """Both stores, empty."""
    return FileStore(tmp_path) if request.param == "files" else MemoryStore()
