"""The cells of a sweep: their names and their records."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LENGTH = 80
"""Longest name of a sweep or a cell."""


def slug(overrides: Sequence[str]) -> str:
    """A readable file name for a list of overrides.

    ``seeds=[0] lr=cosine`` is ``lr=cosine_seeds=0``. A digest is added where
    the name had to be cut or would not tell two lists apart.
    """
    text = "_".join(sorted(overrides))
    bare = text.translate(str.maketrans("", "", "[]{}'\""))
    name = re.sub(r"[^A-Za-z0-9=,.+_-]", "-", bare).strip("_.-") or "default"
    if len(name) <= LENGTH and name == bare:
        return name
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{name[: LENGTH - 9]}-{digest}"


def record(directory: Path, cell: str, **facts: Any) -> None:
    """Write a cell's record: overrides, run_id, status, reason."""
    # Here, because importing a store takes torch with it.
    from lth.store.files import write_atomically

    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(facts, indent=1, sort_keys=True)
    write_atomically(directory / f"{cell}.json", text.encode())
