"""To and from ``torch.nn.utils.prune``: stored masks on a user's module, and a module's masks.

torch keeps a pruned tensor as a parameter ``<name>_orig`` and a buffer ``<name>_mask`` and
computes ``<name>`` before every forward pass; that is the reparametrisation meant here.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from lth.types import Mask

_ORIG, _MASK = "_orig", "_mask"


def apply_mask(module: nn.Module, mask: Mask) -> None:
    """Put ``mask`` on ``module`` as torch's reparametrisation; the weights stay in ``_orig``.

    Afterwards the module is one that torch pruned itself: it trains, saves and
    loads as such, and ``prune.remove`` makes the zeros permanent. Nothing is
    changed where this raises ValueError: a name that the module lacks or has
    pruned already, or a mask of another shape.
    """
    parameters = dict(module.named_parameters())
    for name, kept in mask.items():
        if name + _ORIG in parameters:
            raise ValueError(
                f"module: got one whose {name} is pruned already, allowed: one without "
                f"{name}{_ORIG} (torch.nn.utils.prune.remove takes it off)"
            )
        if name not in parameters:
            raise ValueError(
                f"mask: got {name!r}, allowed: a parameter of the module ({', '.join(parameters)})"
            )
        if kept.shape != parameters[name].shape:
            raise ValueError(
                f"mask of {name}: got shape {list(kept.shape)}, allowed: "
                f"{list(parameters[name].shape)} (the module's)"
            )
    for name, kept in mask.items():
        path, _, own = name.rpartition(".")
        owner = module.get_submodule(path)
        values = kept.to(device=parameters[name].device)
        prune.custom_from_mask(owner, own, mask=values)  # type: ignore[no-untyped-call]


def read_mask(module: nn.Module) -> dict[str, Tensor]:
    """The masks that torch's reparametrisation holds, by the names of what they mask.

    Zeros in a plain weight are no mask: ValueError where the module has none, so
    that a pruned network that was made permanent is not taken for a dense one.
    """
    found = {name: mask.detach().cpu() != 0 for name, mask in _pruned(module)}
    if not found:
        raise ValueError(
            f"module: got a {type(module).__name__} without masks, allowed: one that "
            "torch.nn.utils.prune has pruned, before prune.remove"
        )
    return found


def _pruned(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    buffers = dict(module.named_buffers())
    for name, _ in module.named_parameters():
        own = name.removesuffix(_ORIG)
        if own != name and own + _MASK in buffers:
            yield own, buffers[own + _MASK]
