"""Whole residual blocks: a pruned block is its shortcut."""

from __future__ import annotations

import copy
import operator
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from lth.granularity.draw import as_many
from lth.mask import permuted
from lth.protocol import Allocation
from lth.types import Mask, Scores

BLOCKS = "residual_blocks"
"""The name of the units, which all compete; their type is ``block``."""

ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")


@dataclass(frozen=True, kw_only=True)
class ResidualBlocks:
    """The residual branches of a network, kept or dropped whole (Elkerdawy et al. 2020).

    Networks survive without some of their blocks (Veit et al. 2016). The mask of
    a branch covers all of its parameters, convolutions, biases and norms, so that
    its output is exactly 0 and the block computes its shortcut. A branch's
    score is the mean of its weights' scores; all blocks compete, whatever the
    allocation, and a rate p prunes a share p of the blocks. All may go: stem,
    shortcuts and output are left.

    A branch is found where two operands are added of which one, the shortcut,
    passes at most one Linear or Conv layer and the other more. Of branches within
    one another the inner ones are units. A block stays whole where one of its
    layers is excluded, or used elsewhere too.
    """

    def __call__(
        self,
        module: nn.Module,
        *,
        layers: Mapping[str, str],
        excluded: frozenset[str],
        input_shape: Sequence[int],
    ) -> Branches:
        found = branches(module, layers, input_shape)
        if not found:
            raise ValueError(
                f"got {BLOCKS}, allowed: a network with shortcuts around its layers "
                f"({type(module).__name__} has none: without a whole layer it would be cut)"
            )
        free = tuple(own for own in found if not excluded & own.keys())
        if not free:
            raise ValueError("no residual block may be pruned: each has an excluded layer")
        return Branches(
            branches=free, excluded=frozenset(n for n in layers if not any(n in b for b in free))
        )


Branch = Mapping[str, torch.Size]
"""The parameters of a residual branch and their shapes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Branches:
    """The branches that may be pruned, in the order in which they are computed."""

    branches: Sequence[Branch]
    excluded: frozenset[str]
    layers: ClassVar[Mapping[str, str]] = {BLOCKS: "block"}
    fixed: ClassVar[bool] = False

    @property
    def scored(self) -> frozenset[str]:
        return frozenset(n for own in self.branches for n in weights_of(own))

    @property
    def bypassed(self) -> frozenset[str]:
        return self.scored

    @property
    def weights_per_unit(self) -> int | None:
        sizes = {count(own) for own in self.branches}
        return sizes.pop() if len(sizes) == 1 else None

    def alive(self, mask: Mask) -> Mask:
        return {
            BLOCKS: torch.tensor(
                [any(bool(mask[n].any()) for n in weights_of(own)) for own in self.branches]
            )
        }

    def score(self, scores: Scores, mask: Mask) -> Scores:
        """In float64, so that many weights are averaged as exactly as they were scored."""
        means = [
            torch.cat([scores[n].flatten().double() for n in weights_of(own)]).mean()
            for own in self.branches
        ]
        return {BLOCKS: torch.stack(means).cpu()}

    def expand(self, alive: Mask, mask: Mask) -> dict[str, Tensor]:
        of_branches = {
            n: torch.full(shape, kept, dtype=torch.bool)
            for own, kept in zip(self.branches, alive[BLOCKS].tolist(), strict=True)
            for n, shape in own.items()
        }
        return {**mask, **of_branches}

    def spending(self, allocation: Allocation) -> Allocation:
        return allocation

    def shuffle(self, mask: Mask, generator: torch.Generator) -> Mask:
        """Permuted among blocks whose parameters have the same shapes."""
        alive = self.alive(mask)[BLOCKS].clone()
        alike: dict[tuple[torch.Size, ...], list[int]] = {}
        for i, own in enumerate(self.branches):
            alike.setdefault(tuple(own.values()), []).append(i)
        for places in alike.values():
            alive[places] = permuted({BLOCKS: alive[places]}, generator)[BLOCKS]
        return self.expand({BLOCKS: alive}, mask)

    def draw(self, scores: Scores, mask: Mask) -> Mask:
        """As many weights, to within half a block."""
        alive = self.alive(mask)

        def weights(units: Mask) -> int:
            kept = units[BLOCKS].tolist()
            return sum(count(own) for own, k in zip(self.branches, kept, strict=True) if k)

        none = {BLOCKS: torch.zeros_like(alive[BLOCKS])}
        return self.expand(as_many(scores, none, weights(alive), weights), mask)


def weights_of(branch: Branch) -> list[str]:
    """Its Linear and Conv weights: what has two dimensions or more."""
    return [n for n, shape in branch.items() if len(shape) > 1]


def count(branch: Branch) -> int:
    """How many weights these layers have."""
    return sum(branch[n].numel() for n in weights_of(branch))


# Finding them


def branches(
    module: nn.Module, layers: Mapping[str, str], input_shape: Sequence[int]
) -> list[Branch]:
    """The residual branches of a network; ValueError where it cannot be traced."""
    module = copy.deepcopy(module).cpu()
    shapes = {n: p.shape for n, p in module.named_parameters()}
    _, ends = _traced(module, layers, input_shape)
    return [{n: shape for n, shape in shapes.items() if n in end.own} for end in ends]


def without(
    module: nn.Module, gone: Collection[str], layers: Mapping[str, str], input_shape: Sequence[int]
) -> nn.Module:
    """The network without those branches all of whose parameters are in ``gone``.

    A traced module with the values of ``module`` (which stays as it is), in eval
    mode: what a block had is no part of it. ``module`` itself where no branch is
    gone. ValueError where it cannot be traced.
    """
    traced, ends = _traced(copy.deepcopy(module).cpu(), layers, input_shape)
    cut = [end for end in ends if end.own <= {*gone}]
    if not cut:
        return module
    for end in reversed(cut):  # the shortcut of one may be the addition of one before
        end.addition.replace_all_uses_with(end.shortcut)
    traced.graph.eliminate_dead_code()
    traced.recompile()
    traced.delete_all_unused_submodules()
    return traced.to(next(module.parameters()).device)


def _traced(
    module: nn.Module, layers: Mapping[str, str], input_shape: Sequence[int]
) -> tuple[fx.GraphModule, list[End]]:
    """The network's steps, and where its residual branches end."""
    try:
        traced = fx.symbolic_trace(module.eval())
    except Exception as error:  # whatever a network's own code raises when it is traced
        first = str(error).partition("\n")[0]
        raise ValueError(
            f"got {BLOCKS}, allowed: a network that torch.fx can trace ({first})"
        ) from error
    parameters = dict(module.named_parameters())
    held = _held(traced, parameters)
    ends: list[End] = []
    for node in traced.graph.nodes:
        ends += _ends(node, held, parameters, layers, known=ends)
    return traced, _checked(traced, ends, parameters, input_shape)


@dataclass(frozen=True, kw_only=True, eq=False)
class End:
    """The last ``node`` of a branch, its parameters, and the ``addition`` to its ``shortcut``."""

    addition: fx.Node
    node: fx.Node
    shortcut: fx.Node
    own: set[str]


def _held(
    traced: fx.GraphModule, parameters: Mapping[str, nn.Parameter]
) -> dict[fx.Node, set[str]]:
    """The parameters that each step of the network uses."""
    names = {id(p): n for n, p in parameters.items()}
    modules = dict(traced.named_modules())
    own = dict(traced.named_parameters(remove_duplicate=False))  # tied ones have several names
    held: dict[fx.Node, set[str]] = {}
    for node in traced.graph.nodes:
        used: list[nn.Parameter] = []
        if node.op == "call_module":
            used = list(modules[str(node.target)].parameters())
        elif node.op == "get_attr" and str(node.target) in own:
            used = [own[str(node.target)]]
        held[node] = {names[id(p)] for p in used}
    return held


def _ends(
    addition: fx.Node,
    held: Mapping[fx.Node, set[str]],
    parameters: Mapping[str, nn.Parameter],
    layers: Mapping[str, str],
    known: Sequence[End],
) -> Iterator[End]:
    """The end of the branch that an addition adds to a shortcut, if that is what it does.

    A shortcut may pass branches that are ``known``: they may go too.
    """
    operands = [o for o in addition.args[:2] if isinstance(o, fx.Node)]
    if addition.target not in ADDITIONS or len(operands) < 2:
        return
    optional = {name for end in known for name in end.own}
    for end, shortcut in (operands, operands[::-1]):
        inside, outside = _before(end) - _before(shortcut), _before(shortcut) - _before(end)
        own, passed = _names(held, inside), _names(held, outside)
        if (
            len((passed & layers.keys()) - optional) <= 1
            and len((passed & layers.keys()) - optional) < len(own & layers.keys())
            # Nothing else reads what the branch computes, or uses its parameters.
            and all(user is addition or user in inside for node in inside for user in node.users)
            and own.isdisjoint(_names(held, held.keys() - inside))
            and all(n in layers for n in own if parameters[n].ndim > 1)
        ):
            yield End(addition=addition, node=end, shortcut=shortcut, own=own)


def _names(held: Mapping[fx.Node, set[str]], nodes: Iterable[fx.Node]) -> set[str]:
    return {name for node in nodes for name in held[node]}


def _before(node: fx.Node) -> set[fx.Node]:
    """The node and all that it is computed from."""
    seen, stack = {node}, [node]
    while stack:
        new = [n for n in stack.pop().all_input_nodes if n not in seen]
        seen.update(new)
        stack += new
    return seen


class _Values(fx.Interpreter):
    """Runs a network and remembers what each step computed."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        self.values[n] = result.clone() if isinstance(result, Tensor) else result
        return result


@torch.no_grad()
def _checked(
    traced: fx.GraphModule,
    ends: Sequence[End],
    parameters: Mapping[str, nn.Parameter],
    input_shape: Sequence[int],
) -> list[End]:
    """Those that are exactly 0 without their parameters, while the shortcut sees the input.

    Of ends whose branches overlap, those with the fewest parameters.
    """
    left = list(ends)
    while True:
        chosen: list[End] = []
        for end in sorted(left, key=lambda e: len(e.own)):
            if all(end.own.isdisjoint(other.own) for other in chosen):
                chosen.append(end)
        before = {n: parameters[n].clone() for end in chosen for n in end.own}
        for name in before:
            parameters[name].zero_()
        stream = torch.Generator().manual_seed(0)
        runs = [_Values(traced) for _ in range(2)]
        for run in runs:
            run.run(torch.rand(2, *input_shape, generator=stream))
        for name, value in before.items():
            parameters[name].copy_(value)
        bad = [
            end
            for end in chosen
            if any(bool(run.values[end.node].any()) for run in runs)
            or torch.equal(*(run.values[end.shortcut] for run in runs))
        ]
        if not bad:
            return [end for end in left if end in chosen]
        left = [end for end in left if end not in bad]
