"""The one place that imports torchvision: late, and also under a CPU-only torch."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

_MISSING = "operator torchvision::nms does not exist"
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_kept: list[torch.library.Library] = []  # a Library that is collected takes its operators along


def torchvision() -> ModuleType:
    """The torchvision package; its import costs seconds, so call this where it is needed.

    A torchvision built for CUDA does not import under a CPU-only torch: its
    operators are not loaded, but it registers shapes for them. Where exactly
    that happens, the two operators are declared without an implementation and
    the import is tried again: models, data sets and transforms then work, and
    ``ops.nms`` raises. A matching torchvision is left alone, because declaring
    its operators twice is an error.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if str(error) != _MISSING or _kept:
            raise
    for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        library.define(f"{operator}{_SCHEMA}")  # type: ignore[no-untyped-call]
    _kept.append(library)
    return importlib.import_module("torchvision")
