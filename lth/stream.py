"""Named, counter-based random streams.

Every random number of the laboratory comes from ``generator(*key)``. A key
names its purpose and its coordinates, e.g. ``("order", seed, level, epoch)``;
its SHA-256 seeds a fresh generator. So there is no generator state to save, a
new consumer shifts no other one, and seed 0 is a seed like any other.
"""

from __future__ import annotations

import hashlib
import json
from typing import TypeAlias

import torch

Key: TypeAlias = tuple[int | str, ...]


def seed_of(*key: int | str) -> int:
    """The 63-bit seed of a stream: the first bytes of SHA-256(JSON of the key)."""
    for part in key:
        if isinstance(part, bool) or not isinstance(part, int | str):
            raise ValueError(f"a stream key holds integers and names, got {part!r}")
    text = json.dumps(list(key), separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*key: int | str) -> torch.Generator:
    """A CPU generator of its own for ``key``; equal keys draw equal numbers.

    Draws are made on the CPU and then moved, so that they do not depend on the
    device that trains. (torch's CPU generator takes 32 bits of the seed, so of
    100,000 streams one pair may be expected to be equal: harmless for batches
    and draws, but no ground for cryptography.)
    """
    return torch.Generator().manual_seed(seed_of(*key))
