"""Where the configuration lies: in a checkout at its top, in an installed package inside it."""

from __future__ import annotations

from pathlib import Path


def conf_dir() -> Path:
    """The absolute folder of run.yaml."""
    package = Path(__file__).resolve().parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"
