"""torch.optim's update rules over one tensor, without its classes.

Making any ``torch.optim.Optimizer`` loads torch's compiler, a second in every
process, and stepping it costs a tenth of a millisecond around the kernel. These
call the same fused kernels through torch.optim's functional forms, so the bits
are the same (tested).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from lth.optimizer import build_optimizer, fused, options


class Rule:
    """An optimizer of one parameter; ``param_groups``, ``state`` and ``step`` as torch's."""

    def __init__(self, chosen: dict[str, Any], parameter: nn.Parameter) -> None:
        self.param_groups = [{**chosen, "params": [parameter], "fused": True}]
        self.state: dict[Tensor, dict[str, Any]] = {parameter: {}}
        self._parameter = parameter

    @torch.no_grad()
    def step(self) -> None:
        """Move the parameter by its gradient."""
        assert self._parameter.grad is not None
        (group,) = self.param_groups
        self._move(self._parameter, self._parameter.grad, self.state[self._parameter], group)

    def _move(self, weights: Tensor, gradient: Tensor, slots: Any, group: Any) -> None:
        raise NotImplementedError


class SGD(Rule):
    def _move(self, weights: Tensor, gradient: Tensor, slots: Any, group: Any) -> None:
        buffers = [slots.get("momentum_buffer")]
        names = ("weight_decay", "momentum", "lr", "dampening", "nesterov", "maximize")
        sgd([weights], [gradient], buffers, fused=True, **{n: group[n] for n in names})
        if group["momentum"] != 0:
            slots["momentum_buffer"] = buffers[0]


class Adam(Rule):
    """Adam, and with ``decoupled_weight_decay`` AdamW."""

    def _move(self, weights: Tensor, gradient: Tensor, slots: Any, group: Any) -> None:
        moments = ["exp_avg", "exp_avg_sq"] + ["max_exp_avg_sq"] * group["amsgrad"]
        if not slots:
            slots["step"] = torch.zeros(())
            slots.update({n: torch.zeros_like(weights) for n in moments})
        names = ("decoupled_weight_decay", "amsgrad", "lr", "weight_decay", "eps", "maximize")
        first, second, *most = ([slots[n]] for n in moments)
        adam(
            [weights],
            [gradient],
            first,
            second,
            most[0] if most else [],
            [slots["step"]],
            fused=True,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            **{n: group[n] for n in names},
        )


RULES: Mapping[Any, type[Rule]] = {
    torch.optim.SGD: SGD,
    torch.optim.Adam: Adam,
    torch.optim.AdamW: Adam,
}


def rule(
    optimizer: Callable[..., torch.optim.Optimizer], module: nn.Module
) -> Rule | torch.optim.Optimizer:
    """The rule over a module's only parameter, on the CPU; torch's own class for other kinds.

    Other kinds are those without a fused form here, and those whose form the user chose.
    """
    (parameter,) = module.parameters()
    chosen = options(optimizer)
    kind = getattr(optimizer, "func", optimizer)
    if not fused(optimizer) or kind not in RULES:
        return build_optimizer(optimizer, module)
    return RULES[kind]({"decoupled_weight_decay": kind is torch.optim.AdamW, **chosen}, parameter)
