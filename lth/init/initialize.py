"""What all initialisations share: biases, norms and the modules that are neither."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lth.layer import kinds, weights
from lth.option import one_of

BIAS = ("zeros", "pytorch")
GAMMA = ("ones", "uniform")


@dataclass(frozen=True, kw_only=True)
class Initialize:
    """Draws a model's initial state in place. An initialisation adds ``fill_``.

    ``bias`` of Linear and Conv layers: ``zeros``, or PyTorch's own
    ``U(-1/sqrt(fan_in), 1/sqrt(fan_in))`` (``pytorch``; what open_lth leaves).
    ``gamma`` of BatchNorm: ``ones``, or ``U[0, 1]`` (``uniform``; open_lth's
    default). Fans are the dense layer's: no mask is known here.

    An option changes only what it names: the weights are the same for every
    ``bias`` and ``gamma``.
    """

    bias: str = "zeros"
    gamma: str = "ones"

    def __post_init__(self) -> None:
        one_of("bias", self.bias, BIAS)
        one_of("gamma", self.gamma, GAMMA)

    def fill_(self, weight: Tensor, generator: torch.Generator) -> None:
        """Draws the weight of one Linear (out, in) or Conv (out, in / groups, ...) layer."""
        raise NotImplementedError(f"{type(self).__name__} does not say how weights are drawn")

    @torch.no_grad()
    def __call__(self, model: nn.Module, *, generator: torch.Generator) -> None:
        """Initialises ``model``, which lies on the CPU, from ``generator`` alone.

        BatchNorm's beta and running statistics, and modules of other types
        (Embedding, LayerNorm, ...), get PyTorch's default. A parameter whose
        module has no ``reset_parameters`` keeps its value.
        """
        parameters = dict(model.named_parameters(remove_duplicate=False))
        devices = {p.device.type for p in parameters.values()} - {"cpu"}
        if devices:  # their draws would come from another generator
            raise ValueError(f"model: got parameters on {', '.join(sorted(devices))}, allowed: cpu")
        prunable = kinds(model)
        reset_(model, generator)
        for name in prunable:
            self.fill_(parameters[name], generator)
        if self.bias == "zeros":
            for _, module in weights(model):
                if isinstance(module.bias, Tensor):
                    module.bias.zero_()
        if self.gamma == "uniform":
            for module in model.modules():
                if isinstance(module, _BatchNorm) and module.affine:
                    module.weight.uniform_(generator=generator)


def check_density(density: float) -> None:
    """ValueError, naming the option, for a share of weights that is none."""
    if not 0 < density <= 1:
        raise ValueError(f"density: got {density}, allowed: 0 < density <= 1 (a share of weights)")


def reset_(model: nn.Module, generator: torch.Generator) -> None:
    """Every module's own ``reset_parameters()``, seeded by one draw from ``generator``.

    PyTorch's defaults draw from the global CPU generator, which is put back.
    """
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which seeds the accelerators too, and those are not put back.
        torch.default_generator.manual_seed(seed)
        for module in model.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
