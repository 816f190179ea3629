"""Files that are read while they are written anew: a reader sees the old one or the new one."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lth.store.files import write_atomically


def write(path: Path, content: str | bytes) -> None:
    """Replace a file in one go; processes that share a run write the same report."""
    write_atomically(path, content.encode() if isinstance(content, str) else content)


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """The same for a table, without its index."""
    write(path, table.to_csv(index=False))
