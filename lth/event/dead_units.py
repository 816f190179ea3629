"""Probe: ReLU units that are silent on the whole validation split."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lth.dataset.task import in_chunks
from lth.engine.network import CHUNK
from lth.protocol import Moment, Record
from lth.training import Training


@dataclass(frozen=True, kw_only=True)
class DeadUnits:
    """Units (channels) of each ``nn.ReLU`` whose output is 0 for every validation example.

    Rows ``step layer dead units`` on the evaluation grid. ValueError where the
    network has no ``nn.ReLU`` module to watch.
    """

    def steps(self, training: Training) -> Iterable[int]:
        return training.grid()

    def __call__(self, moment: Moment, record: Record) -> None:
        layers = [(n, m) for n, m in moment.module().named_modules() if isinstance(m, nn.ReLU)]
        if not layers:
            raise ValueError("the dead_units probe needs a network with nn.ReLU modules")
        alive: dict[str, Tensor] = {}

        def watch(name: str) -> object:
            def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
                # (B, units, ...) -> (units,)
                fired = (output > 0).transpose(0, 1).flatten(1).any(1)
                alive[name] = alive[name] | fired if name in alive else fired

            return hook

        handles = [m.register_forward_hook(watch(n)) for n, m in layers]  # type: ignore[arg-type]
        module = moment.module()
        training = module.training
        module.eval()
        try:
            # The module itself: an engine may evaluate without it.
            with torch.no_grad():
                for x, _ in in_chunks(moment.training.task.validation, CHUNK):
                    module(x)
        finally:
            module.train(training)
            for handle in handles:
                handle.remove()
        record.probes.setdefault("dead_units", []).extend(
            {
                "step": moment.step,
                "layer": name,
                "dead": int((~fired).sum()),
                "units": fired.numel(),
            }
            for name, fired in alive.items()
        )
