"""One network trained by several processes: each computes its share of every batch.

Under ``torchrun`` the first process conducts the run as ever: it alone searches,
prunes, evaluates, stores and reports. The others hold the data and a copy of the
network, and do what it tells them to.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lth.dataset.task import Task
from lth.engine.batches import Batches
from lth.engine.loop import Live, alone
from lth.protocol import Event, Result, Resume
from lth.runtime import Runtime
from lth.spec import content_id
from lth.stream import seed_of
from lth.training import Training
from lth.types import Mask, TrainState

PATIENCE = timedelta(days=30)
"""How long a process waits for the first one, which may have much else to do."""


@dataclass(frozen=True, kw_only=True)
class DDP:
    """Distributed data parallel (Li et al. 2020), without overlap of backward and communication.

    Each process computes the loss of its part of the global batch, weighted by
    the part's size; the gradients are added up over the processes once per
    update. BatchNorm takes its statistics over the global batch. So an update is
    that of ``loop`` but for the order of sums; only modules that draw random
    numbers (dropout) draw others, in each process its own. ``channels_last`` as
    in ``loop``. Without ``torchrun`` there is one process.
    """

    channels_last: bool = False

    def groups(self, cohort: Sequence[Training], runtime: Runtime) -> Sequence[Sequence[Training]]:
        """Every network is trained alone, so any one can be recomputed alone."""
        return [[training] for training in cohort]

    def numerics(self, runtime: Runtime, training: Training) -> dict[str, Any]:
        """The runtime's and this engine's choices, the precision and the number of processes."""
        return {
            "engine": "ddp",
            "processes": _processes(),
            "channels_last": self.channels_last,
            "precision": training.precision,
            **runtime.numerics(),
        }

    def refusal(self, training: Training, runtime: Runtime) -> str | None:
        """Why this engine cannot train it, or None where it can."""
        size, batch = _processes(), training.task.batch_size
        if size > 1 and "corrupted" in training.task.spec:
            return "knows only the data that every process reads, not corrupted ones"
        return None if batch >= size else f"cannot share batches of {batch} among {size} processes"

    def join(self, runtime: Runtime) -> None:
        """Meet the other processes of ``torchrun``; ValueError for a device that cannot."""
        if _processes() == 1 or dist.is_initialized():
            return
        device, backend = runtime.torch_device, "gloo"
        if device.type == "cuda":
            own = int(os.environ["LOCAL_RANK"])
            if device.index is not None or own >= torch.cuda.device_count():
                raise ValueError(
                    f"device: got {runtime.device!r}, allowed: auto, cuda (each process takes the "
                    f"GPU of its number, of {torch.cuda.device_count()} here), cpu"
                )
            torch.cuda.set_device(own)
            backend = "cpu:gloo,cuda:nccl"
        elif device.type != "cpu":
            raise ValueError(f"device: got {runtime.device!r}, allowed with ddp: cpu, cuda")
        dist.init_process_group(backend, timeout=PATIENCE)

    def train(
        self,
        group: Sequence[Training],
        *,
        events: Callable[[Training], Sequence[Event]],
        resume: Callable[[Training], Resume | None],
        runtime: Runtime,
    ) -> Iterator[Result]:
        """Yield the result of each Training as it ends. Called in the first process only."""
        self.join(runtime)
        for training in group:
            reason = self.refusal(training, runtime)
            if reason is not None:
                raise ValueError(f"engine: got ddp, which {reason}, allowed: loop")
            _tell(_pack(training))
            with alone(training, runtime):
                live = _First(training, runtime.torch_device, channels_last=self.channels_last)
                record = live.run(events(training), resume(training))
                result = live.result(record, self.numerics(runtime, training))
            _tell(None)
            yield result

    def together(
        self,
        lead: Callable[[], object],
        *,
        tasks: Callable[[], Iterable[Task]],
        runtime: Runtime,
    ) -> None:
        """``lead()`` in the first process, while the others take part in what it trains.

        ``tasks`` reads what they learn from, once there is something to train.
        A process that fails ends, and ``torchrun`` ends the others.
        """
        self.join(runtime)
        if int(os.environ.get("RANK", "0")) == 0:
            lead()
            _tell(None)
        else:
            self._follow(tasks, runtime)
        if dist.is_initialized():
            if dist.get_backend() == "gloo":
                # Its threads may still hold a tensor of the last message; a process that ends
                # meanwhile is aborted. This message has none.
                dist.barrier()
            dist.destroy_process_group()

    def _follow(self, tasks: Callable[[], Iterable[Task]], runtime: Runtime) -> None:
        known: dict[str, Task] = {}
        while (packed := _hear()) is not None:
            known = known or {content_id(t.spec): t for t in tasks()}
            training = _unpack(packed, known)
            with alone(training, runtime):
                live = _Shared(training, runtime.torch_device, channels_last=self.channels_last)
                while (order := _hear()) is not None:
                    live.obey(order)


class _Shared(Live):
    """A Training of which this process computes its share of every update."""

    def __init__(
        self, training: Training, device: torch.device, *, channels_last: bool = False
    ) -> None:
        super().__init__(training, device, channels_last=channels_last)
        if not dist.is_initialized():
            return
        rank, size, batch = dist.get_rank(), dist.get_world_size(), training.task.batch_size
        share = slice(rank * batch // size, (rank + 1) * batch // size)
        self._own = Batches(training, device, share)
        self._part = (share.stop - share.start) / batch

    def obey(self, order: Load | int) -> None:
        """Load a state at a step, or advance to one."""
        if isinstance(order, int):
            self._advance(order)
        else:
            self.step = order.step
            self._load(order.state, order.mask)

    def _loss(self, step: int) -> Tensor:
        if not dist.is_initialized():
            return super()._loss(step)
        rank, network = dist.get_rank(), self._network
        if rank:
            # The first draws what a single process would, the others something of their own.
            network.seed_(seed_of(*self.training.streams["module"], step, "process", rank))
        with _norms_over_all(network.module):
            loss = self._backward(*self._own(step), share=self._part)
        gradients = [p.grad for p in network.parameters.values() if p.grad is not None]
        total = _sum([*gradients, loss])
        for gradient, summed in zip(gradients, total, strict=False):
            gradient.copy_(summed)
        return total[-1]


class _First(_Shared):
    """The first process's: it tells the others what happens."""

    def _load(self, state: TrainState, mask: Mask) -> None:
        _tell(Load(step=self.step, state=state, mask=mask))
        super()._load(state, mask)

    def _advance(self, stop: int) -> None:
        if stop > self.step:
            _tell(stop)
        super()._advance(stop)


@dataclass(frozen=True, kw_only=True, eq=False)
class Load:
    """What all processes go on from."""

    step: int
    state: TrainState
    mask: Mask


# Processes


def _processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _tell(message: object) -> None:
    if dist.is_initialized():
        dist.broadcast_object_list([message], src=0, device=torch.device("cpu"))


def _hear() -> Any:
    heard: list[Any] = [None]
    try:
        dist.broadcast_object_list(heard, src=0, device=torch.device("cpu"))
    except RuntimeError:
        # The first process has ended, and says itself why.
        raise SystemExit(1) from None
    return heard[0]


class _Pickler(pickle.Pickler):
    """Names a task instead of copying its data, which every process has."""

    def persistent_id(self, thing: Any) -> str | None:
        return content_id(thing.spec) if isinstance(thing, Task) else None


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, tasks: Mapping[str, Task]) -> None:
        super().__init__(file)
        self._tasks = tasks

    def persistent_load(self, name: str) -> Task:
        return self._tasks[name]


def _pack(training: Training) -> bytes:
    file = io.BytesIO()
    _Pickler(file).dump(training)
    return file.getvalue()


def _unpack(data: bytes, tasks: Mapping[str, Task]) -> Training:
    training: Training = _Unpickler(io.BytesIO(data), tasks).load()
    return training


# Sums over processes


def _sum(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Each tensor added up over the processes, in one exchange; in float32 or wider."""
    wide = [t.flatten() if t.dtype == torch.float64 else t.float().flatten() for t in tensors]
    flat = torch.cat(wide)
    dist.all_reduce(flat)
    parts = torch.split(flat, [t.numel() for t in tensors])
    return [p.view(t.shape) for p, t in zip(parts, tensors, strict=True)]


class _SumOverAll(torch.autograd.Function):
    """The sum over processes of a tensor that every process's loss depends on."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def _sum_over_all(x: Tensor) -> Tensor:
    total: Tensor = _SumOverAll.apply(x)  # type: ignore[no-untyped-call]
    return total


@contextmanager
def _norms_over_all(module: nn.Module) -> Iterator[None]:
    """Have BatchNorm in train mode take its statistics over the batches of all processes."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training]
    for norm in norms:
        norm.forward = partial(_norm_over_all, norm)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def _norm_over_all(norm: _BatchNorm, x: Tensor) -> Tensor:
    """``nn.BatchNorm`` of the global batch, also on the CPU, where torch's SyncBatchNorm is not."""
    wide = x if x.dtype == torch.float64 else x.float()
    others = [0, *range(2, x.dim())]
    shape = [1, -1, *[1] * (x.dim() - 2)]
    count = wide.new_tensor([wide.numel() / wide.shape[1]])
    sums = _sum_over_all(torch.cat([wide.sum(others), count]))
    count = sums[-1].detach()
    mean = sums[:-1] / count
    centred = wide - mean.view(shape)
    variance = _sum_over_all(centred.square().sum(others)) / count
    if norm.track_running_stats:
        assert norm.running_mean is not None and norm.running_var is not None
        assert norm.num_batches_tracked is not None
        with torch.no_grad():
            norm.num_batches_tracked += 1
            momentum = norm.momentum
            factor = 1 / float(norm.num_batches_tracked) if momentum is None else momentum
            norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), factor)
            unbiased = variance * (count / (count - 1))
            norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), factor)
    y = centred * (variance + norm.eps).rsqrt().view(shape)
    if norm.affine:
        y = y * norm.weight.view(shape) + norm.bias.view(shape)
    return y.to(x.dtype)
