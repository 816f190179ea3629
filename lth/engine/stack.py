"""Networks of one architecture as one: every parameter has a leading dimension."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lth.dataset.task import Split
from lth.engine.batches import Batches, batch_key
from lth.engine.lockstep import Live
from lth.engine.network import CHUNK
from lth.engine.vector import ALIGN
from lth.optimizer import base_rate, build_optimizer, load_slots_, set_rate, slots
from lth.types import TrainState

ROLES = ("train", "validation", "test")


class Stack:
    """``size`` places for networks that advance together (see ``Together``).

    Places beyond the last network repeat it; what they compute is not looked at.
    """

    def __init__(self, lives: Sequence[Live], *, size: int, compile: bool) -> None:
        self._lives = lives
        self._places = [*lives, *[lives[-1]] * (size - len(lives))]
        first = lives[0]
        self._device = first.device
        self._module = first.network.module
        self._names = list(first.network.parameters)
        starts = [live.start for live in self._places]
        self._holder = _Holder([self._stack([s.weights[n] for s in starts]) for n in self._names])
        self._shapes = {n: starts[0].weights[n].shape for n in self._names}
        self._buffers = {
            n: self._stack([s.buffers[n] for s in starts]) for n in first.network.buffers
        }
        self._values = dict(zip(self._names, self._holder.values, strict=True))
        self._gradients = dict(zip(self._names, self._holder.gradients, strict=True))
        masks = [live.mask for live in self._places]
        partial = [n for n in self._names if any(n in m and not bool(m[n].all()) for m in masks)]
        whole = {n: torch.ones(self._shapes[n], dtype=torch.bool) for n in partial}
        self._factors = [
            self._stack([m.get(n, whole[n]) for m in masks]).to(self._values[n].dtype)
            for n in partial
        ]
        self._masked = [self._values[n].data for n in partial]
        self._masked_gradients = [self._gradients[n] for n in partial]
        self._optimizer = build_optimizer(first.training.optimizer, self._holder)
        self._base_rate = base_rate(first.training.optimizer)
        self._load_slots([live.start for live in self._places])
        self._keys = [batch_key(live.training) for live in self._places]
        self._batches = {
            key: Batches(live.training, self._device)
            for key, live in zip(self._keys, self._places, strict=True)
        }
        losses: Callable[..., Tensor] = torch.vmap(self._loss)
        self._losses = torch.compile(losses) if compile else losses
        self._evaluated: dict[str, tuple[int, list[tuple[Tensor, Tensor]]]] = {}

    def _stack(self, tensors: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(tensors)).to(self._device)

    def _loss(
        self, values: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, y: Tensor
    ) -> Tensor:
        logits = torch.func.functional_call(self._module, (values, buffers), (x,))
        smoothing = self._lives[0].training.label_smoothing
        return F.cross_entropy(logits.float(), y, label_smoothing=smoothing)

    def _autocast(self) -> AbstractContextManager[object]:
        if self._lives[0].training.precision == "bf16":
            return torch.autocast(self._device.type, dtype=torch.bfloat16)
        return nullcontext()

    def advance(self, stop: int) -> None:
        training = self._lives[0].training
        sums = torch.zeros(len(self._places), device=self._device)
        count = stop - self._lives[0].step
        self._module.train()
        for step in range(self._lives[0].step, stop):
            set_rate(self._optimizer, self._base_rate * training.learning_rate(step))
            x, y = self._batch(step)
            with self._autocast():
                losses = self._losses(self._values, self._buffers, x, y)
            gradients = torch.autograd.grad(losses.sum(), self._holder.values)
            torch._foreach_copy_(self._holder.gradients, gradients)
            if self._masked:
                torch._foreach_mul_(self._masked_gradients, self._factors)
            if training.grad_clip is not None:
                self._clip(training.grad_clip)
            self._optimizer.step()
            if self._masked:
                torch._foreach_mul_(self._masked, self._factors)
            sums += losses.detach()
        for index, live in enumerate(self._lives):
            live.step = stop
            live.loss_sum += sums[index]
            live.loss_count += count
        self._evaluated.clear()

    def _batch(self, step: int) -> tuple[Tensor, Tensor]:
        seen = {key: batches(step) for key, batches in self._batches.items()}
        pairs = [seen[key] for key in self._keys]
        return torch.stack([x for x, _ in pairs]), torch.stack([y for _, y in pairs])

    @torch.no_grad()
    def _clip(self, bound: float) -> None:
        """Bound the norm of each network's gradient, as ``clip_grad_norm_`` does for one."""
        gradients = [_gradient(p) for p in self._holder.parameters()]
        squares = torch.stack([g.square().sum(1) for g in gradients])
        scale = (bound / (squares.sum(0).sqrt() + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient *= scale.unsqueeze(1)

    def state(self, index: int, *, optimizer: bool) -> TrainState:
        found = None
        if optimizer:
            found = {}
            for key, value in slots(self._optimizer, self._holder).items():
                place, _, slot = key.rpartition("/")
                name = self._names[int(place.rpartition(".")[2])]
                # A counter is one for all.
                own = value if value.ndim == 0 else _unpadded(value, self._shapes[name])[index]
                found[f"{name}/{slot}"] = own.clone()
        return TrainState(
            step=self._lives[index].step,
            weights={n: v[index].detach().cpu().clone() for n, v in self._values.items()},
            buffers={n: b[index].detach().cpu().clone() for n, b in self._buffers.items()},
            optimizer=found,
        )

    def _load_slots(self, starts: Sequence[TrainState]) -> None:
        merged = {}
        for key, value in (starts[0].optimizer or {}).items():
            name, _, slot = key.rpartition("/")
            own = [(s.optimizer or {})[key] for s in starts]
            place = f"padded.{self._names.index(name)}"
            merged[f"{place}/{slot}"] = value if value.ndim == 0 else _padded(torch.stack(own))
        load_slots_(self._optimizer, self._holder, merged)

    @torch.no_grad()
    def evaluate(self, index: int, split: Split, state: TrainState | None) -> tuple[Tensor, Tensor]:
        """Of all places at once, remembered for the others, where it is their split too."""
        live = self._lives[index]
        if state is not None:
            return live.network.evaluate(split, state)
        task = live.training.task
        role = next((r for r in ROLES if getattr(task, r) is split), None)
        if role is None:
            return live.network.evaluate(split, self.state(index, optimizer=False))
        step, known = self._evaluated.get(role, (-1, []))
        if step != live.step:
            splits = [getattr(place.training.task, role) for place in self._places]
            known = self._evaluate(splits)
            self._evaluated[role] = (live.step, known)
        return known[index]

    def _evaluate(self, splits: Sequence[Split]) -> list[tuple[Tensor, Tensor]]:
        self._module.eval()
        pieces = []
        with self._autocast():
            for indices in torch.split(torch.arange(len(splits[0]), device=self._device), CHUNK):
                seen = {id(s): s.gather(indices) for s in splits}
                x = torch.stack([seen[id(s)][0] for s in splits])
                y = torch.stack([seen[id(s)][1] for s in splits])
                pieces.append(torch.vmap(self._look)(self._values, self._buffers, x, y))
        losses = torch.cat([p[0] for p in pieces], 1).cpu()
        classes = torch.cat([p[1] for p in pieces], 1).cpu()
        return list(zip(losses, classes, strict=True))

    def _look(
        self, values: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor]:
        logits = torch.func.functional_call(self._module, (values, buffers), (x,)).float()
        return F.cross_entropy(logits, y, reduction="none"), logits.argmax(1)


class _Holder(nn.Module):
    """The stacked parameters as the optimizer sees them, and views of them as networks do.

    Each network's part of a parameter is padded to 64 values, so that every
    element goes through the same vector instructions whatever its place.
    """

    def __init__(self, stacks: Sequence[Tensor]) -> None:
        super().__init__()
        self.padded = nn.ParameterList([nn.Parameter(_padded(s)) for s in stacks])
        self.values: list[Tensor] = []
        self.gradients: list[Tensor] = []
        for parameter, stack in zip(self.padded, stacks, strict=True):
            parameter.grad = torch.zeros_like(parameter)
            self.values.append(_unpadded(parameter.data, stack.shape[1:]).requires_grad_())
            self.gradients.append(_unpadded(parameter.grad, stack.shape[1:]))


def _padded(stack: Tensor) -> Tensor:
    flat = stack.flatten(1)
    return F.pad(flat, (0, -flat.shape[1] % ALIGN))


def _unpadded(padded: Tensor, shape: torch.Size) -> Tensor:
    """(networks, *shape): a view of (networks, padded size)."""
    # Networks lie a padded size apart; within one the values are contiguous.
    return padded[:, : shape.numel()].view(len(padded), *shape)


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
