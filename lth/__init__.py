"""A laboratory for the lottery ticket hypothesis. See docs/library.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lth.store.run_folder import find_trainings, load_ticket

__all__ = ["find_trainings", "load_ticket"]


def __getattr__(name: str) -> Any:
    # Loaded when asked for: importing the package must not import torch.
    if name in __all__:
        from lth.store import run_folder

        return getattr(run_folder, name)
    raise AttributeError(f"module 'lth' has no attribute {name!r}")
