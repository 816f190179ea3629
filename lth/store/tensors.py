"""Masks and states as safetensors bytes, without zeros and without pickle.

A mask is stored bit by bit, eight positions a byte, the first position in the
highest bit. Of a masked weight only the surviving values are stored, in the
order of the flattened mask, so that a file shrinks with the density. Shapes
and the step are in the metadata, one key ``lth`` of canonical JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from lth.types import Mask, TrainState, Weights

_KEY = "lth"


def encode(tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> bytes:
    """Safetensors bytes with ``meta`` as JSON; contiguous copies, no shared storage."""
    flat = {n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}
    return save(flat, metadata={_KEY: json.dumps(meta, sort_keys=True, separators=(",", ":"))})


def decode(data: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the metadata; ValueError for bytes that are not such a file."""
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        return load(data), json.loads(header["__metadata__"][_KEY])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not a safetensors file of this store ({error})") from None


def encode_mask(mask: Mask) -> bytes:
    """A mask as packed bits."""
    packed = {
        n: torch.from_numpy(np.packbits(m.cpu().numpy().reshape(-1))) for n, m in mask.items()
    }
    return encode(packed, {"shapes": {n: list(m.shape) for n, m in mask.items()}})


def decode_mask(data: bytes) -> dict[str, Tensor]:
    """The mask of ``encode_mask``."""
    tensors, meta = decode(data)
    result = {}
    for name, shape in meta["shapes"].items():
        bits = np.unpackbits(tensors[name].numpy(), count=math.prod(shape))
        result[name] = torch.from_numpy(bits.astype(np.bool_)).reshape(shape)
    return result


def encode_state(state: TrainState, mask: Mask) -> bytes:
    """A state as its surviving values; what the mask does not keep is left out."""
    parts = {f"weights/{n}": (t, mask.get(n)) for n, t in state.weights.items()}
    parts |= {f"buffers/{n}": (t, None) for n, t in state.buffers.items()}
    parts |= {
        f"optimizer/{key}": (t, mask.get(key.rpartition("/")[0]))
        for key, t in (state.optimizer or {}).items()
    }
    tensors, shapes = {}, {}
    for key, (tensor, own) in parts.items():
        if own is not None and own.shape == tensor.shape:
            shapes[key] = list(tensor.shape)
            tensors[key] = tensor[own]
        else:
            tensors[key] = tensor
    meta = {
        "step": state.step,
        "packed": shapes,
        "optimizer": state.optimizer is not None,
    }
    return encode(tensors, meta)


def decode_state(data: bytes, mask: Mask) -> TrainState:
    """The state of ``encode_state``, given the same mask; zeros where it is False."""
    tensors, meta = decode(data)
    parts: dict[str, dict[str, Tensor]] = {"weights": {}, "buffers": {}, "optimizer": {}}
    for key, tensor in tensors.items():
        group, _, name = key.partition("/")
        if key in meta["packed"]:
            own = mask[name if group == "weights" else name.rpartition("/")[0]]
            dense = torch.zeros(meta["packed"][key], dtype=tensor.dtype)
            dense[own] = tensor
            tensor = dense
        parts[group][name] = tensor
    return TrainState(
        step=meta["step"],
        weights=parts["weights"],
        buffers=parts["buffers"],
        optimizer=parts["optimizer"] if meta["optimizer"] else None,
    )


def flatten(prefix: str, state: TrainState) -> Weights:
    """Every tensor of a state under one flat set of names, nothing packed."""
    flat = {f"{prefix}/weights/{n}": t for n, t in state.weights.items()}
    flat |= {f"{prefix}/buffers/{n}": t for n, t in state.buffers.items()}
    return flat | {f"{prefix}/optimizer/{n}": t for n, t in (state.optimizer or {}).items()}


def unflatten(prefix: str, tensors: Weights, *, step: int, optimizer: bool) -> TrainState:
    """The state that ``flatten`` put under ``prefix``."""

    def part(name: str) -> dict[str, Tensor]:
        start = f"{prefix}/{name}/"
        return {k.removeprefix(start): t for k, t in tensors.items() if k.startswith(start)}

    return TrainState(
        step=step,
        weights=part("weights"),
        buffers=part("buffers"),
        optimizer=part("optimizer") if optimizer else None,
    )
