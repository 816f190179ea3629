"""Which units of a network come and go together: neurons, filters, channels and what hangs on them.

A unit is an output of a Linear or Conv layer. It owns its row of the weight and
its bias, the entries of the BatchNorms that see it, and the columns of the
weights that read it, through flattening and concatenation; residual additions
and depthwise convolutions tie units of several layers together. The ties are
found by torch-pruning's dependency graph (Fang et al. 2023).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lth.types import Mask


@dataclass(frozen=True, kw_only=True, eq=False)
class Place:
    """Where units lie in a parameter or buffer: ``owner`` names one per index along ``dim``.

    -1 where an index belongs to no unit of the group (concatenation).
    """

    tensor: str
    dim: int
    owner: Tensor

    def alive(self, units: Tensor, ndim: int) -> Tensor:
        """Which indices stay, shaped to be broadcast over a tensor of ``ndim`` dimensions."""
        kept = units[self.owner.clamp_min(0)] | (self.owner < 0)
        return kept.view([-1 if d == self.dim else 1 for d in range(ndim)])


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Units 0 to ``size`` - 1 of one or more coupled layers.

    ``layers`` are the weights whose outputs they are, the first one first.
    """

    size: int
    layers: tuple[str, ...]
    places: tuple[Place, ...]

    @property
    def read(self) -> bool:
        """Whether a layer reads these units; those of the output are read by none."""
        return any(place.dim == 1 for place in self.places)

    def only(self, dim: int) -> Group:
        """The same units, with their places along ``dim`` alone."""
        return replace(self, places=tuple(p for p in self.places if p.dim == dim))

    def alive(self, mask: Mask) -> Tensor:
        """The units whose row of the first layer is not empty."""
        name = self.layers[0]
        (owner,) = (p.owner for p in self.places if p.tensor == name and p.dim == 0)
        rows = mask[name].flatten(1).any(1)
        return torch.zeros(self.size).index_add(0, owner, rows.float()) > 0


def mask_of(
    groups: Mapping[str, Group], alive: Mask, shapes: Mapping[str, torch.Size]
) -> dict[str, Tensor]:
    """What is left of every tensor in ``shapes`` that a group has a place in."""
    found: dict[str, Tensor] = {}
    for name, group in groups.items():
        for place in group.places:
            if place.tensor in shapes:
                shape = shapes[place.tensor]
                whole = torch.ones(shape, dtype=torch.bool)
                kept = found.get(place.tensor, whole)
                found[place.tensor] = kept & place.alive(alive[name], len(shape))
    return found


def coupled(module: nn.Module, input_shape: Sequence[int]) -> dict[str, Group]:
    """The groups of a network's units by the name of their first layer, in the module's order.

    Every unit of every Linear and Conv layer is in one, those of the output
    layer too. Raises ValueError for what cannot be followed: grouped
    convolutions, norms over several channels, attention, channel shuffles.
    """
    try:
        from torch_pruning import DependencyGraph
    except ImportError:
        raise ValueError(
            "units of a network are found by torch-pruning, which is not installed: "
            "pip install 'lth[structured]'"
        ) from None
    module = copy.deepcopy(module).cpu()
    for parameter in module.parameters():
        parameter.requires_grad_(True)  # the graph is read from autograd
    if len([*module.named_parameters(remove_duplicate=False)]) > len([*module.parameters()]):
        raise ValueError("units cannot be followed through weights that several layers share")
    names = {m: n for n, m in module.named_modules()}
    try:
        with torch.enable_grad():
            graph = DependencyGraph().build_dependency(
                module, example_inputs=torch.zeros(1, *input_shape), verbose=False
            )
        items = list(graph.get_all_groups())
    except (RuntimeError, AssertionError, AttributeError, LookupError, TypeError) as error:
        first = str(error).partition("\n")[0]
        raise ValueError(f"torch-pruning cannot follow this network ({first})") from error
    found = [_group(graph, group, names) for group in items]
    order = {n: i for i, (n, _) in enumerate(module.named_parameters())}
    groups = [
        Group(size=g.size, layers=tuple(sorted(g.layers, key=order.__getitem__)), places=g.places)
        for g in found
    ]
    groups.sort(key=lambda g: order[g.layers[0]])
    result = {g.layers[0]: g for g in groups}
    if len(result) < len(groups):
        raise ValueError("a layer's units are in several groups, which is not supported")
    _check_readers(result)
    _check_gone(module, result, input_shape)
    return result


def _check_readers(groups: Mapping[str, Group]) -> None:
    """What reads units reads nothing else, and each entry from one unit only."""
    seen: dict[str, Tensor] = {}
    for group in groups.values():
        for place in (p for p in group.places if p.dim == 1):
            count = seen.setdefault(place.tensor, torch.zeros(len(place.owner)))
            count += (place.owner >= 0).float()
    for tensor, count in seen.items():
        if not bool((count == 1).all()):
            raise ValueError(f"{tensor}: which units it reads could not be followed")


@torch.no_grad()
def _check_gone(module: nn.Module, groups: Mapping[str, Group], input_shape: Sequence[int]) -> None:
    """Half of the units, with no reader left, change no output whatever they compute."""
    stream = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        fan = parameter[0].numel() if parameter.ndim > 1 else 1
        parameter.copy_(torch.randn(parameter.shape, generator=stream) / fan**0.5)
    x = torch.rand(2, *input_shape, generator=stream)
    alive = {n: (torch.arange(g.size) % 2 == 0) | (not g.read) for n, g in groups.items()}
    shapes = {n: p.shape for n, p in module.named_parameters()}
    whole = mask_of(groups, alive, shapes)
    readers = mask_of({n: g.only(1) for n, g in groups.items()}, alive, shapes)
    values = {n: p.detach() for n, p in module.named_parameters()}

    def outputs(mask: Mask) -> Tensor:
        masked = {n: v * mask[n] if n in mask else v for n, v in values.items()}
        result: Tensor = torch.func.functional_call(module.eval(), masked, (x,))
        return result

    if not torch.allclose(outputs(whole), outputs(readers), rtol=1e-6, atol=0, equal_nan=True):
        raise ValueError("units cannot be followed: something reads them that is no layer's weight")


def _group(graph: object, items: object, names: Mapping[nn.Module, str]) -> Group:
    from torch_pruning.ops import OPTYPE, module2type

    passing = (OPTYPE.ELEMENTWISE, OPTYPE.RESHAPE, OPTYPE.CONCAT)
    owners: dict[tuple[str, int], Tensor] = {}
    layers: list[str] = []
    size = 0
    for item in items:  # type: ignore[attr-defined]
        target, kind = item.dep.target.module, module2type(item.dep.target.module)
        if item.dep is items[0].dep:  # type: ignore[index]
            size = len(item.idxs)
        if kind in passing:
            continue
        name = names.get(target, type(target).__name__)
        _check(target, name)
        outward = kind == OPTYPE.DEPTHWISE_CONV or graph.is_out_channel_pruning_fn(  # type: ignore[attr-defined]
            item.dep.handler
        )
        prefix = f"{name}." if name else ""
        tensors = dict(target.named_parameters()) | dict(target.named_buffers())
        own = [n for n, t in tensors.items() if t.ndim] if outward else ["weight"]
        for tensor in own:
            key = (f"{prefix}{tensor}", 0 if outward else 1)
            owner = owners.setdefault(key, torch.full((tensors[tensor].shape[key[1]],), -1))
            _own(owner, item.idxs, item.root_idxs, key[0])
        if outward and not isinstance(target, nn.modules.batchnorm._BatchNorm):
            layers.append(f"{prefix}weight")
    for (tensor, dim), owner in owners.items():
        if dim == 0 and bool((owner < 0).any()):
            raise ValueError(
                f"{tensor}: its units belong to several groups, which is not supported"
            )
    places = tuple(Place(tensor=t, dim=d, owner=o) for (t, d), o in owners.items())
    return Group(size=size, layers=tuple(dict.fromkeys(layers)), places=places)


def _check(target: object, name: str) -> None:
    """ValueError for a module that units cannot be followed through."""
    if isinstance(target, nn.modules.conv._ConvNd) and not target.transposed:
        depthwise = target.groups == target.in_channels == target.out_channels
        if target.groups == 1 or depthwise:
            return
        raise ValueError(f"{name}: a convolution in {target.groups} groups is not supported")
    if not isinstance(target, nn.Linear | nn.modules.batchnorm._BatchNorm):
        raise ValueError(
            f"units cannot be followed through {name} ({type(target).__name__}): only Linear, "
            "Conv, BatchNorm, elementwise operations, flattening and concatenation"
        )


def _own(owner: Tensor, places: Sequence[int], units: Sequence[int | None], name: str) -> None:
    if any(u is None for u in units):
        raise ValueError(f"{name}: its entries cannot be told apart by unit")
    where, who = torch.tensor(places), torch.tensor(units)
    if int(where.max()) >= len(owner) or bool(((owner[where] >= 0) & (owner[where] != who)).any()):
        raise ValueError(f"{name}: which units its entries are of could not be followed")
    owner[where] = who
