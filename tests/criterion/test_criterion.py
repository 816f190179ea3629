"""What the criteria compute, on literal tensors."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lth.allocation.global_top import GlobalTop
from lth.criterion.magnitude import magnitude
from lth.criterion.random import random
from lth.criterion.snip import SNIP
from lth.runtime import Runtime
from lth.stream import generator

MASK = {"w": torch.tensor([[True, True], [False, True]])}
WEIGHTS = torch.tensor([[-3.0, 2.0], [0.0, -0.5]])
NOTHING: dict[str, Any] = {"forward": None, "batches": None}


def test_magnitude_is_the_absolute_value_of_the_scored_state() -> None:
    """A large negative weight outranks a smaller positive one."""
    weights = {"w": WEIGHTS, "b": torch.ones(2)}
    history: Any = SimpleNamespace(scored=SimpleNamespace(weights=weights))
    scores = magnitude(history, MASK, generator=generator("x"), **NOTHING)
    assert scores.keys() == {"w"}
    assert scores["w"].tolist() == [[3.0, 2.0], [0.0, 0.5]]
    assert WEIGHTS.tolist() == [[-3.0, 2.0], [0.0, -0.5]]


def test_random_is_uniform_in_float64_and_looks_at_nothing() -> None:
    mask = {"a": torch.ones(100, 50, dtype=torch.bool), "b": torch.ones(7, dtype=torch.bool)}
    history: Any = None
    scores = random(history, mask, generator=generator("x"), **NOTHING)
    assert {n: (tuple(s.shape), s.dtype) for n, s in scores.items()} == {
        "a": ((100, 50), torch.float64),
        "b": ((7,), torch.float64),
    }
    assert bool((scores["a"] >= 0).all()) and bool((scores["a"] < 1).all())
    assert len(scores["a"].unique()) == 5000
    assert float(scores["a"].mean()) == pytest.approx(0.5, abs=0.02)
    other = random(history, mask, generator=generator("y"), **NOTHING)
    assert not torch.equal(other["a"], scores["a"])


@pytest.mark.parametrize("at", ["end", "early_stop", 3, 0])
def test_the_scored_state_is_that_of_prune_at(
    at: Any, make_search: Any, make_workshop: Any
) -> None:
    search, workshop = make_search(prune_at=at, rewind_step=0), make_workshop()
    (stored,) = workshop.complete([search.dense(0)], search.dense_watch())
    history = search.history(stored, stored, 0)
    scores = magnitude(
        history, search.dense(0).mask, generator=generator("x"), forward=None, batches=None
    )
    state = stored.state("start" if at == 0 else at)
    assert state.step == {"end": 14, "early_stop": stored.done["early_stop"]["step"]}.get(at, at)
    for name, values in scores.items():
        assert torch.equal(values, state.weights[name].abs())
        assert bool((state.weights[name] < 0).any())


class Dropped(nn.Module):
    """A network that draws from the global generator in train mode."""

    def __init__(self, *, input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(input_shape[1] * input_shape[2], 20)
        self.fc2 = nn.Linear(20, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.dropout(torch.relu(self.fc1(x.flatten(1))), 0.5, self.training)
        output: Tensor = self.fc2(x)
        return output


def test_scores_do_not_depend_on_the_global_generator(make_search: Any, make_workshop: Any) -> None:
    options = {"model": Dropped, "criterion": SNIP(), "allocation": GlobalTop(), "prune_at": 0}
    ids = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        search = make_search(levels=1, rewind_step=0, **options)
        _, (row,) = search.run(make_workshop())
        ids.append(row.training.id)
        assert torch.equal(torch.get_rng_state(), before)
    assert ids[0] == ids[1]


def test_scores_are_computed_with_the_threads_of_training(
    make_search: Any, make_workshop: Any
) -> None:
    """Their last bits depend on it, and with them masks."""
    seen: list[int] = []

    def watch(history: Any, mask: Any, **_: Any) -> Any:
        seen.append(torch.get_num_threads())
        return {n: history.scored.weights[n].abs() for n in mask}

    workshop = make_workshop(runtime=Runtime(device="cpu", num_threads=2))
    list(make_search(levels=2, criterion=watch).run(workshop))
    assert seen == [2, 2]
    assert torch.get_num_threads() == 1
