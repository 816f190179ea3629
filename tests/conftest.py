"""A tiny laboratory for tests: one BatchNorm network, one task, one search of a few updates.

Fixtures give classes and factories, so that a test names only what it is about:
``TinyBatchNorm``, ``tiny_task``, ``make_search``, ``make_workshop``, ``train_plainly``,
``watch_updates``. One training takes some 20 ms.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from lth.allocation.layerwise import Layerwise
from lth.complete import Workshop
from lth.criterion.magnitude import magnitude
from lth.dataset.synthetic import Synthetic
from lth.dataset.task import Task
from lth.init.glorot_normal import GlorotNormal
from lth.lr.step import MultiStep
from lth.rewind.matrix import Matrix
from lth.runtime import Runtime
from lth.schedule.geometric import Geometric
from lth.search import Search
from lth.store.memory import MemoryStore
from lth.stream import generator
from lth.training import LearningRate, Training
from lth.types import TrainState


class _TinyBatchNorm(nn.Module):
    """conv-BN-ReLU-conv-BN-ReLU-pool-linear: 270 prunable weights, with and without biases."""

    def __init__(
        self, *, input_shape: tuple[int, int, int], num_classes: int, width: int = 4
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(input_shape[0], width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width + 2, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(width + 2)
        self.fc = nn.Linear(width + 2, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(self.norm2(self.conv2(x)))
        output: Tensor = self.fc(x.mean((2, 3)))
        return output


@functools.cache
def _tiny_task(*, seed: int = 0, **options: Any) -> Task:
    options = {
        "train": 80,
        "test": 24,
        "validation": 16,
        "shape": (1, 6, 6),
        "classes": 3,
    } | options
    dataset = Synthetic(**options)
    raw = dataset.read(Path())
    return dataset.task(raw, seed=seed, batch_size=16)


def _make_search(*, seeds: Sequence[int] = (0,), **changes: Any) -> Search:
    defaults: dict[str, Any] = {
        "seeds": list(seeds),
        "levels": 2,
        "tasks": {seed: _tiny_task(seed=seed) for seed in seeds},
        "model": _TinyBatchNorm,
        "init": GlorotNormal(),
        "optimizer": functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=1e-3),
        "learning_rate": LearningRate(
            shape=MultiStep(milestones=("10it",), gamma=0.5), total=14, warmup=10
        ),
        "criterion": magnitude,
        "allocation": Layerwise(),
        "schedule": Geometric(rate=0.4),
        "rewind": Matrix(),
        "baselines": {},
        "eval_every": 4,
        "rewind_step": 5,
    }
    return Search(**(defaults | changes))


def _make_workshop(store: MemoryStore | None = None, **changes: Any) -> Workshop:
    defaults: dict[str, Any] = {
        "store": MemoryStore() if store is None else store,
        "runtime": Runtime(device="cpu"),
        "say": lambda text: None,
    }
    return Workshop(**(defaults | changes))


def _train_plainly(
    training: Training, rate: Callable[[int], float], *, last_step: int | None = None
) -> TrainState:
    """The end of a Training by plain PyTorch alone; ``rate`` is the learning rate of a step."""
    task, mask, stop = training.task, training.mask, last_step or training.last_step
    net = training.model(input_shape=task.input_shape, num_classes=task.num_classes)
    net.load_state_dict({**training.start.weights, **training.start.buffers})
    weights = dict(net.named_parameters())
    optimizer = training.optimizer(net.parameters(), fused=True)  # as lth.optimizer chooses
    for key, value in (training.start.optimizer or {}).items():
        optimizer.state[weights[key.rpartition("/")[0]]]["momentum_buffer"] = value.clone()
    for step in range(training.first_step, stop):
        epoch, i = divmod(step, len(task.train) // task.batch_size)
        stream = generator(*training.streams["order"], "epoch", epoch)
        order = torch.randperm(len(task.train), generator=stream)
        x, y = task.train.gather(order[i * task.batch_size : (i + 1) * task.batch_size])
        optimizer.param_groups[0]["lr"] = rate(step)
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        for name, kept in mask.items():
            weights[name].grad *= kept
        if training.grad_clip is not None:
            nn.utils.clip_grad_norm_(net.parameters(), training.grad_clip)
        optimizer.step()
        for name, kept in mask.items():
            weights[name].data *= kept
    return TrainState(
        step=stop,
        weights={n: w.detach().clone() for n, w in weights.items()},
        buffers={n: b.clone() for n, b in net.named_buffers()},
        optimizer={
            f"{n}/momentum_buffer": optimizer.state[w]["momentum_buffer"].clone()
            for n, w in weights.items()
        },
    )


@dataclasses.dataclass
class Updates:
    """What torch saw: the rate before each update; weights and slots before the first."""

    rates: list[float] = dataclasses.field(default_factory=list)
    weights: list[Tensor] = dataclasses.field(default_factory=list)
    slots: list[dict[str, Tensor]] = dataclasses.field(default_factory=list)


@contextmanager
def _watch_updates() -> Iterator[Updates]:
    """Record every optimizer step inside the block, from torch's own hook."""
    seen = Updates()

    def before(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        group = optimizer.param_groups[0]
        if not seen.rates:
            seen.weights = [p.detach().clone() for p in group["params"]]
            seen.slots = [
                {k: v.clone() for k, v in optimizer.state.get(p, {}).items() if v is not None}
                for p in group["params"]
            ]
        seen.rates.append(group["lr"])

    handle = register_optimizer_step_pre_hook(before)
    try:
        yield seen
    finally:
        handle.remove()


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Plain PyTorch in tests computes as the engine does by default."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _no_wandb() -> Iterator[None]:
    """W&B is off in every process that a test starts, but where its own tests turn it on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        patch.delenv("WANDB_API_KEY", raising=False)
        yield


@pytest.fixture(scope="session")
def TinyBatchNorm() -> type[nn.Module]:
    """The class: conv1, norm1, conv2 (with bias), norm2, fc."""
    return _TinyBatchNorm


@pytest.fixture(scope="session")
def tiny_task() -> Callable[..., Task]:
    """``tiny_task(seed=0, **options of Synthetic)``: 64 train examples, 4 updates an epoch."""
    return _tiny_task


@pytest.fixture(scope="session")
def make_search() -> Callable[..., Search]:
    """``make_search(seeds=[0], **fields of Search)``.

    T = 14, k = 5, warm-up over 10 updates, rate halved from step 10 on, SGD
    0.1 with momentum and weight decay; 40 % a level, 20 % of ``fc``.
    """
    return _make_search


@pytest.fixture(scope="session")
def make_workshop() -> Callable[..., Workshop]:
    """``make_workshop(store, **fields of Workshop)`` on the CPU, silent; a new memory store."""
    return _make_workshop


@pytest.fixture(scope="session")
def train_plainly() -> Callable[..., TrainState]:
    """``train_plainly(training, rate, last_step=None)``: the reference without ``lth.engine``."""
    return _train_plainly


@pytest.fixture(scope="session")
def watch_updates() -> Callable[..., Any]:
    """``with watch_updates() as seen: ...`` gives ``seen.rates``, ``.weights``, ``.slots``."""
    return _watch_updates
