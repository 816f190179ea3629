"""Early-bird tickets as published: channels, ranked by the scale that BatchNorm gives them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lth.finder.early_bird import stands_still
from lth.granularity.units import CoupledUnits
from lth.history import History
from lth.mask import remaining
from lth.option import at_least
from lth.protocol import Allocate, Allocation, Grain, Moment, Record, Stop
from lth.step import Step, positive_step
from lth.store.stored import Stored
from lth.training import Training
from lth.types import Mask, Scores, TrainState, Weights

Norms = Mapping[str, Mapping[str, Sequence[int]]]
"""Set of coupled channels -> the weights of its BatchNorms -> the channel of each entry (or -1)."""


@dataclass(frozen=True, kw_only=True)
class EarlyBirdChannels:
    """You et al. (2020): train until the channels that would be pruned are always the same.

    The training has an L1 penalty ``l1`` on the scales of all BatchNorms (Liu et
    al. 2017). Channels are ranked by abs(scale), coupled ones by its mean. The
    training ends where the newest mask differs in less than ``threshold`` of all
    channels from every other of the last ``window``; at the latest at its last
    step. Published: a window of 5, one mask an epoch, 0.1, an ``l1`` of 1e-4,
    all layers together (``allocation=global_top``), 30, 50 or 70 % of the
    channels (``levels=1 schedule.rate=0.5``). Needs ``granularity=units``.
    """

    l1: float = 1e-4
    every: Step | str = "1ep"
    window: int = 5
    threshold: float = 0.1
    of_units: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least("l1", self.l1, 0)
        object.__setattr__(self, "every", positive_step("every", self.every))
        if self.window < 2:
            raise ValueError(f"window: got {self.window}, allowed: 2 masks or more")
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold: got {self.threshold}, allowed: 0 < threshold <= 1")

    @property
    def variants(self) -> Sequence[str]:
        return ("early_bird_channels",)

    def refusal(self, grain: Grain) -> str | None:
        """Why these units cannot be ranked, or None where they can."""
        if not isinstance(grain, CoupledUnits):
            return "it ranks channels: granularity=units"
        bare = [n for n, own in norms_of(grain).items() if not own]
        return f"no BatchNorm scales the units of {', '.join(bare)}; exclude them" if bare else None

    def __call__(
        self,
        ticket: Training,
        *,
        start: TrainState,
        history: History,
        allocation: Allocation,
        keep: int,
    ) -> Training:
        event = ChannelsStandStill(
            keep=remaining(history.grain.alive(ticket.mask)),
            every=Step.parse(self.every),
            window=self.window,
            threshold=self.threshold,
            allocation=allocation,
            layers=dict(history.grain.layers),
            norms=norms_of(history.grain),
        )
        return ticket.replace(
            mask=history.mask,
            start=start,
            events=(*ticket.events, event),
            norm_l1=self.l1 or None,
        )

    def mask(self, found: Stored, *, history: History, allocate: Allocate) -> Mask:
        """Drawn from the scales where the training ended."""
        return allocate(scale_of(found.state("end").weights, norms_of(history.grain)))

    def controls(self, finding: Training) -> Mapping[str, Training]:
        return {}


@dataclass(frozen=True, kw_only=True)
class ChannelsStandStill:
    """Stop where the newest mask of ``keep`` channels is near all others of the last ``window``.

    Every ``every`` updates it is drawn by ``allocation`` over the sets of coupled
    channels in ``layers``, by the scales in ``norms``. The distance of two masks
    is the share of channels in which they differ (Hamming); ``threshold`` bounds it.
    """

    keep: int
    every: Step
    window: int
    threshold: float
    allocation: Allocation
    layers: Mapping[str, str]
    norms: Norms

    def steps(self, training: Training) -> Iterable[int]:
        every = self.every.updates(training.task.updates_per_epoch)
        return range(training.first_step + every, training.last_step, every)

    def __call__(self, moment: Moment, record: Record) -> Stop | None:
        alive = {n: self._alive(n, moment.mask) for n in self.layers}
        drawn = self.allocation(
            scale_of(moment.state().weights, self.norms),
            alive,
            layers=self.layers,
            rate=0.5,  # only the layers' proportions depend on it where a count is given
            times=1,
            keep=self.keep,
        )
        newest = torch.cat([drawn[n] for n in self.layers])
        settled = stands_still(
            newest, moment.step, record, self.window, self.threshold, distance=hamming
        )
        return Stop() if settled else None

    def _alive(self, name: str, mask: Mask) -> Tensor:
        """The channels of a set that are left; a mask that covers no norm is whole."""
        weight, owner = next(iter(self.norms[name].items()))
        units = torch.tensor(owner)
        kept = mask[weight].cpu() if weight in mask else torch.ones_like(units, dtype=torch.bool)
        alive = torch.zeros(max(owner) + 1, dtype=torch.bool)
        alive[units[kept & (units >= 0)]] = True
        return alive


def norms_of(grain: Grain) -> dict[str, dict[str, list[int]]]:
    """The weights of the BatchNorms of each set of coupled units."""
    groups = grain.groups if isinstance(grain, CoupledUnits) else {}
    return {
        name: {
            place.tensor: place.owner.tolist()
            for place in group.places
            if place.dim == 0
            and place.tensor.rpartition(".")[2] == "weight"
            and place.tensor not in group.layers
        }
        for name, group in groups.items()
    }


def scale_of(weights: Weights, norms: Norms) -> Scores:
    """abs(scale) of each channel, the mean over the BatchNorms of coupled ones."""
    scores = {}
    for name, own in norms.items():
        size = max(max(owner) for owner in own.values()) + 1
        total = torch.zeros(size, dtype=torch.float64)
        count = torch.zeros_like(total)
        for weight, owner in own.items():
            units = torch.tensor(owner)
            scale = weights[weight].detach().cpu().double().abs()
            total.index_add_(0, units[units >= 0], scale[units >= 0])
            count.index_add_(0, units[units >= 0], torch.ones_like(scale[units >= 0]))
        scores[name] = total / count.clamp_min(1)
    return scores


def hamming(a: Tensor, b: Tensor) -> float:
    """The share of positions in which two masks differ."""
    return float((a != b).double().mean())
