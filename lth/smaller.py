"""The physically smaller network of a mask of whole units or whole residual blocks."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lth.coupling import coupled, mask_of
from lth.granularity.residual_blocks import without
from lth.layer import kinds
from lth.types import Mask, TrainState


@torch.no_grad()
def smaller(
    module: nn.Module, state: TrainState, mask: Mask, *, input_shape: Sequence[int]
) -> nn.Module:
    """A network without the units that ``mask`` prunes, with the same outputs.

    ``module`` is the whole network (its values are not used, and it is left as
    it is); the result is of its class, with smaller layers and the values of
    ``state``. Where residual blocks are pruned it is a traced module in eval
    mode, in which a pruned block is its shortcut. ValueError for a mask that is
    neither of whole units nor of whole blocks.
    """
    result = copy.deepcopy(module)
    _load(result, state)
    gone = {n for n, m in mask.items() if not bool(m.any())}
    if gone:
        # Of units, every layer keeps one.
        result = module = without(result, gone, kinds(result), input_shape)
        mask = {n: m for n, m in mask.items() if n in dict(result.named_parameters())}
    if all(bool(m.all()) for m in mask.values()):
        return result
    groups = coupled(module, input_shape)
    alive = {n: g.alive(mask) for n, g in groups.items()}
    parameters = dict(result.named_parameters())
    _check(mask, mask_of(groups, alive, {n: p.shape for n, p in parameters.items()}))
    kept: dict[str, dict[int, Tensor]] = {}
    for name, group in groups.items():
        for place in group.places:
            dims = kept.setdefault(place.tensor, {})
            own = place.alive(alive[name], place.dim + 1).flatten()
            dims[place.dim] = dims.get(place.dim, torch.ones_like(own)) & own
    for tensor, dims in kept.items():
        owner, _, attribute = tensor.rpartition(".")
        layer = result.get_submodule(owner)
        value = getattr(layer, attribute)
        for dim, own in dims.items():
            value = value.index_select(dim, own.nonzero().flatten().to(value.device))
        if isinstance(getattr(layer, attribute), nn.Parameter):
            needs = parameters[tensor].requires_grad
            setattr(layer, attribute, nn.Parameter(value, requires_grad=needs))
        else:
            setattr(layer, attribute, value)
    for layer in result.modules():
        _resize(layer)
    return result


def _load(module: nn.Module, state: TrainState) -> None:
    """Give a module the values of ``state``; buffers that are not saved with it have theirs too."""
    values = {**state.weights, **state.buffers}
    for name, own in [*module.named_parameters(), *module.named_buffers()]:
        own.copy_(values[name])


def _check(mask: Mask, units: Mask) -> None:
    for name in {**mask, **units}:
        whole = torch.ones_like(mask[name] if name in mask else units[name])
        if not torch.equal(mask.get(name, whole), units.get(name, whole)):
            raise ValueError(f"mask: got single weights of {name}, allowed: whole units")


def _resize(layer: nn.Module) -> None:
    """Bring a layer's numbers up to date with its weight."""
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, nn.modules.conv._ConvNd):
        out, inputs = layer.weight.shape[:2]
        if layer.groups > 1:  # depthwise, as ``coupled`` has checked
            layer.groups = out
        layer.out_channels, layer.in_channels = out, inputs * layer.groups
    elif isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is not None:
        layer.num_features = len(layer.running_mean)
