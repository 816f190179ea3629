"""Networks whose weights stand still: scores of their prunable weights are trained instead."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from lth.history import History
from lth.layer import kinds
from lth.optimizer import at_rate
from lth.protocol import Change, Moment, Record
from lth.stream import generator
from lth.training import Training, build_model
from lth.types import TrainState, Weights

if TYPE_CHECKING:
    from lth.search import Search

SCORES = "scores"
"""The name of the state that holds all scores, those of weights that were not chosen too."""


class Choice(Protocol):
    """Which weights of a layer take part, by their scores. ``alive``: those that may."""

    def mask(self, name: str, scores: Tensor, alive: Tensor) -> Tensor:
        """The bool mask of the network as it is evaluated, and as it is in the end."""
        ...

    def __call__(self, name: str, scores: Tensor, alive: Tensor, *, train: bool) -> Tensor:
        """What multiplies the frozen weights, differentiable by the scores."""
        ...


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """``hard`` to the last bit, with the gradient of ``soft`` (Bengio et al. 2013)."""
    return hard.to(soft.dtype) + (soft - soft.detach())


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """A ``Training.model``: the network of ``model``, frozen (see ``FrozenNetwork``)."""

    model: Callable[..., nn.Module]
    choice: Choice

    def __call__(self, *, input_shape: tuple[int, ...], num_classes: int) -> FrozenNetwork:
        inner = self.model(input_shape=input_shape, num_classes=num_classes)
        return FrozenNetwork(inner, self.choice)


class FrozenNetwork(nn.Module):
    """``inner`` computing with its prunable weights times what their scores choose.

    The only parameters are scores, in shape and name those of the weights that
    they score, so that a mask of the weights is one of the scores. Everything
    else is a buffer and no optimizer sees it: ``<layer>.frozen`` (the weight),
    ``<layer>.alive`` (bool, which weights may be chosen), biases and norms
    under their own names (gamma 1 and beta 0 are a BatchNorm that is not affine).
    """

    def __init__(self, inner: nn.Module, choice: Choice) -> None:
        super().__init__()
        prunable = kinds(inner)
        layers: list[tuple[str, nn.Module]] = []
        for prefix, module in inner.named_modules():
            for own, parameter in list(module.named_parameters(recurse=False)):
                name = f"{prefix}.{own}" if prefix else own
                value = parameter.detach()
                if name in prunable:
                    layers.append((name, module))
                    module.register_buffer("frozen", value.clone())
                    module.register_buffer("alive", torch.ones_like(value, dtype=torch.bool))
                else:
                    delattr(module, own)
                    module.register_buffer(own, value)
        self.choice = choice
        self._layers = layers
        # In a tuple, so that it is no child: its children are ours, under their own names.
        self._inner = (inner,)
        for shared in ("_modules", "_parameters", "_buffers"):
            self.__dict__[shared] = getattr(inner, shared)

    def train(self, mode: bool = True) -> FrozenNetwork:
        self._inner[0].training = mode
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        weights = {}
        for name, layer in self._layers:
            scores, frozen, alive = (getattr(layer, n) for n in ("weight", "frozen", "alive"))
            weights[name] = frozen * self.choice(name, scores, alive, train=self.training)
        output: Tensor = torch.func.functional_call(self._inner[0], weights, (x,))
        return output


def frozen_name(name: str) -> str:
    """The buffer that holds the frozen weight ``name``."""
    return f"{name.removesuffix('weight')}frozen"


def alive_name(name: str) -> str:
    """The buffer that says which of the weights ``name`` may be chosen."""
    return f"{name.removesuffix('weight')}alive"


def freeze(
    ticket: Training, *, history: History, choice: Choice, scores: Weights, lr: float | None
) -> Training:
    """Train ``scores`` of theta_0 for all T updates, under the parent's mask.

    By the ticket's optimizer, at the base rate ``lr`` (None: its own).
    """
    theta, mask = history.initial, history.mask
    buffers = {**theta.buffers, **{n: w for n, w in theta.weights.items() if n not in mask}}
    buffers |= {frozen_name(n): theta.weights[n] for n in mask}
    buffers |= {alive_name(n): m for n, m in mask.items()}
    return ticket.replace(
        model=Frozen(model=ticket.model, choice=choice),
        mask=mask,
        start=TrainState(step=0, weights=scores, buffers=buffers),
        first_step=0,
        last_step=history.train_steps,
        optimizer=ticket.optimizer if lr is None else at_rate(ticket.optimizer, lr),
        learning_rate=dataclasses.replace(ticket.learning_rate, hold=False),
        events=(*ticket.events, Settle()),
    )


@dataclass(frozen=True, kw_only=True)
class Settle:
    """At the last step the chosen weights become the mask; all scores are kept as ``scores``."""

    def steps(self, training: Training) -> Iterable[int]:
        return [training.last_step]

    def __call__(self, moment: Moment, record: Record) -> Change:
        choice = moment.training.model.choice  # type: ignore[attr-defined]
        state = moment.state(optimizer=True)
        record.states[SCORES] = TrainState(step=state.step, weights=state.weights, buffers={})
        mask = {
            n: choice.mask(n, state.weights[n], state.buffers[alive_name(n)]) for n in moment.mask
        }
        # Scores that the mask sets to 0 must not be chosen in place of those that were 0.
        buffers = {**state.buffers, **{alive_name(n): m for n, m in mask.items()}}
        return Change(state=dataclasses.replace(state, buffers=buffers), mask=mask)


def check_network(search: Search) -> None:
    """ValueError for a network whose layers share a weight: each would have scores of its own."""
    module = build_model(search.model, search.tasks[search.seeds[0]], generator("frozen"))
    if len([*module.named_parameters(remove_duplicate=False)]) > len([*module.parameters()]):
        assert search.finder is not None
        raise ValueError(
            f"finder: got {search.finder.variants[0]}, allowed: one that trains weights (layers of "
            "this network share a weight)"
        )


def check_lr(lr: float | None) -> None:
    """ValueError, naming the option, for a base rate that trains nothing."""
    if lr is not None and not lr > 0:
        raise ValueError(f"lr: got {lr}, allowed: above 0, or null for the optimizer's own")
