"""A live network under a mask, on a device: what every engine loads, reads and evaluates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lth import mask as masks
from lth.dataset.task import Split, in_chunks
from lth.optimizer import base_rate, build_optimizer, load_slots_, set_rate, slots
from lth.stream import generator
from lth.training import Training, build_model
from lth.types import Mask, TrainState, Weights

CHUNK = 1000
"""Examples per forward pass of an evaluation: bounds memory, fixed so that numbers do not move."""


class Network:
    """A module with the masked weights of a Training and its optimizer."""

    def __init__(
        self, training: Training, device: torch.device, *, channels_last: bool = False
    ) -> None:
        self.training = training
        self.device = device
        module = build_model(training.model, training.task, generator("module", "construction"))
        self.module: nn.Module = module.to(device)
        if channels_last:
            self.module = self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.parameters = dict(self.module.named_parameters())
        self._saved: Weights | None = None
        self._base_rate = base_rate(training.optimizer)
        self.mask: Mask = {}
        norms = (m for m in self.module.modules() if isinstance(m, _BatchNorm) and m.affine)
        self._scales = [m.weight for m in norms]
        self._masked: list[nn.Parameter] = []
        self._values: list[Tensor] = []
        self._factors: list[Tensor] = []
        self._fills: list[Tensor] = []

    @property
    def buffers(self) -> dict[str, Tensor]:
        """The live buffers; a module may put others in their place (``self.mean = ...``)."""
        return dict(self.module.named_buffers())

    @cached_property
    def optimizer(self) -> torch.optim.Optimizer:
        """Over all parameters, with the slots that were loaded; made when it is asked for."""
        made = build_optimizer(self.training.optimizer, self.module)
        load_slots_(made, self.module, self._saved)
        return made

    @torch.no_grad()
    def load(self, state: TrainState, mask: Mask) -> None:
        """Copy a state in, masked; the optimizer gets its slots or starts fresh."""
        _check(self.parameters, mask)
        fill = self.training.filled or {}
        state = masks.apply_state(state, mask, fill)
        _copy(self.parameters, state.weights, "weights")
        _copy(self.buffers, state.buffers, "buffers")
        self._saved = state.optimizer
        self.__dict__.pop("optimizer", None)
        # In the module's order, whatever file or checkpoint the mask comes from.
        mask = {n: mask[n] for n in self.parameters if n in mask}
        self.mask = mask
        # A full mask multiplies by ones, which is exact, so it can be left out.
        partial = [n for n in mask if not bool(mask[n].all())]
        self._masked = [self.parameters[n] for n in partial]
        self._values = [p.data for p in self._masked]
        self._factors = [torch.empty_like(self.parameters[n]).copy_(mask[n]) for n in partial]
        self._fills = []
        if fill:
            none = torch.zeros(())
            self._fills = [
                torch.empty_like(self.parameters[n]).copy_(fill.get(n, none)) for n in partial
            ]

    @torch.no_grad()
    def mask_weights_(self) -> None:
        """Multiply the weights by the mask, and put back what pruned ones hold."""
        if self._factors:
            torch._foreach_mul_(self._values, self._factors)
        if self._fills:
            torch._foreach_add_(self._values, self._fills)

    @torch.no_grad()
    def mask_gradients_(self) -> None:
        """Multiply the gradients by the mask, so that momentum and clipping see survivors only."""
        if self._factors:
            torch._foreach_mul_([_gradient(p) for p in self._masked], self._factors)

    @torch.no_grad()
    def penalise_norms_(self, l1: float) -> None:
        """Add the gradient of ``l1 * sum(abs(w))`` over the weights of all BatchNorms."""
        for weight in self._scales:
            _gradient(weight).add_(weight.sign(), alpha=l1)

    def state(self, step: int, *, optimizer: bool) -> TrainState:
        """A copy of everything on the CPU, in ordinary memory format."""
        return TrainState(
            step=step,
            weights={n: _detached(p) for n, p in self.parameters.items()},
            buffers={n: _detached(b) for n, b in self.buffers.items()},
            optimizer=slots(self.optimizer, self.module) if optimizer else None,
        )

    def seed_(self, seed: int) -> None:
        """Seed the global generator that modules draw from (dropout)."""
        if self.device.type == "cpu":
            # torch.manual_seed looks for every accelerator: some 100 us, a fifth of a small step.
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)

    def set_rate(self, multiplier: float) -> None:
        """Scale the optimizer's base learning rate."""
        set_rate(self.optimizer, self._base_rate * multiplier)

    def autocast(self) -> AbstractContextManager[object]:
        """bf16 where the Training asks for it."""
        if self.training.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()

    def loss(self, logits: Tensor, y: Tensor, x: Tensor) -> Tensor:
        """The mean training loss of a batch, in float32 or wider.

        Cross-entropy with the Training's label smoothing, and its teacher's part.
        """
        wide = _wide(logits)
        hard = F.cross_entropy(wide, y, label_smoothing=self.training.label_smoothing)
        taught = self.training.distillation
        if taught is None or taught.weight == 0:
            return hard
        with torch.no_grad(), self.autocast():
            told = self._teacher(x)
        return taught.loss(hard, wide, _wide(told))

    @cached_property
    def _teacher(self) -> nn.Module:
        training = self.training
        assert training.distillation is not None
        teacher = training.distillation.teacher
        model = training.distillation.model or training.model
        module = build_model(model, training.task, generator("module", "construction"))
        with torch.no_grad():
            _copy(dict(module.named_parameters()), teacher.weights, "weights")
            _copy(dict(module.named_buffers()), teacher.buffers, "buffers")
        return module.to(self.device).eval()

    @torch.no_grad()
    def evaluate(self, split: Split, state: TrainState | None = None) -> tuple[Tensor, Tensor]:
        """Per-example cross-entropy (float32) and predicted class, in eval mode, on the CPU.

        ``state`` takes the place of the live parameters and buffers.
        """
        forward = self._forward_of(state) if state is not None else self.module
        was_training = self.module.training
        self.module.eval()
        losses, classes = [], []
        with self.autocast():
            for x, y in in_chunks(split, CHUNK):
                logits = forward(x).float()
                losses.append(F.cross_entropy(logits, y, reduction="none"))
                classes.append(logits.argmax(1))
        self.module.train(was_training)
        return torch.cat(losses).cpu(), torch.cat(classes).cpu()

    def _forward_of(self, state: TrainState) -> Callable[[Tensor], Tensor]:
        live = {**self.parameters, **self.buffers}
        # In the device and memory layout of the live tensors, so that equal values give equal bits.
        values = {
            n: torch.empty_like(live[n]).copy_(v)
            for n, v in {**state.weights, **state.buffers}.items()
        }
        return lambda x: torch.func.functional_call(self.module, values, (x,))

    def gradient(self, x: Tensor, y: Tensor, seed: int) -> Weights:
        """The gradient for all weights, pruned ones too; the training is left untouched.

        Buffers are copies (BatchNorm in train mode writes to them) and the
        global generator is put back.
        """
        parameters = {n: p.detach().clone().requires_grad_() for n, p in self.parameters.items()}
        buffers = {n: b.clone() for n, b in self.buffers.items()}
        devices: Sequence[torch.device] = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), self.autocast():
            self.seed_(seed)
            logits = torch.func.functional_call(self.module, (parameters, buffers), (x,))
        loss = self.loss(logits, y, x)
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        return {
            n: torch.zeros_like(p) if g is None else g
            for (n, p), g in zip(parameters.items(), gradients, strict=True)
        }


def _check(parameters: Mapping[str, Tensor], mask: Mask) -> None:
    for name, kept in mask.items():
        if name not in parameters or parameters[name].shape != kept.shape:
            raise ValueError(
                f"mask: got {name} of shape {tuple(kept.shape)}, allowed: "
                f"{', '.join(f'{n} {tuple(p.shape)}' for n, p in parameters.items())}"
            )


def _copy(targets: dict[str, Tensor] | dict[str, nn.Parameter], source: Weights, what: str) -> None:
    if targets.keys() != source.keys():
        odd = sorted(targets.keys() ^ source.keys())
        raise ValueError(f"the {what} of a state do not fit the model: {', '.join(odd)}")
    for name, target in targets.items():
        if target.shape != source[name].shape:
            raise ValueError(
                f"{name}: got shape {tuple(source[name].shape)}, the model has "
                f"{tuple(target.shape)}"
            )
        target.copy_(source[name])


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _detached(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().clone()


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        raise ValueError("a masked weight takes no part in the loss, so it has no gradient")
    return parameter.grad
