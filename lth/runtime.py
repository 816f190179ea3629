"""Where and how numbers are computed: what must be equal for results to be equal bit for bit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from lth.option import at_least


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """The device, the threads and whether only deterministic kernels may run.

    ``device`` is ``auto`` (CUDA where there is one, else the CPU) or a name
    that torch knows. ``num_threads`` is never derived from the machine's load.
    """

    device: str = "auto"
    num_threads: int = 1
    deterministic: bool = False

    def __post_init__(self) -> None:
        at_least("num_threads", self.num_threads, 1)
        try:
            self.torch_device.type  # noqa: B018  (resolving it is the check)
        except (RuntimeError, AssertionError):
            raise ValueError(
                f"device: got {self.device!r}, allowed: auto, cpu, cuda, cuda:N, mps"
            ) from None
        if not _available(self.torch_device):
            raise ValueError(
                f"device: got {self.device!r}, which this machine lacks, allowed: auto, cpu"
            )

    @property
    def torch_device(self) -> torch.device:
        """The device that ``auto`` stands for on this machine."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)

    def numerics(self) -> dict[str, Any]:
        """Device, threads, versions: everything outside the Training that moves its bits."""
        device = self.torch_device
        cpu = device.type == "cpu"
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        return {
            "device": name,
            "num_threads": self.num_threads if cpu else 0,
            "deterministic": self.deterministic,
            "torch": torch.__version__,
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        }

    @contextmanager
    def active(self, precision: str) -> Iterator[None]:
        """Set threads and precision flags for a block, and put the old ones back.

        Raises ValueError where the device does not have the precision.
        """
        if precision == "tf32" and self.torch_device.type != "cuda":
            raise ValueError(
                f"precision: got 'tf32', which {self.torch_device.type} lacks, allowed: fp32, bf16"
            )
        threads = torch.get_num_threads()
        matmul = torch.get_float32_matmul_precision()
        cudnn = torch.backends.cudnn.allow_tf32
        strict = torch.are_deterministic_algorithms_enabled()
        if self.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        try:
            torch.set_num_threads(self.num_threads)
            torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
            torch.backends.cudnn.allow_tf32 = precision == "tf32"
            _set_deterministic(self.deterministic)
            yield
        finally:
            torch.set_num_threads(threads)
            torch.set_float32_matmul_precision(matmul)
            torch.backends.cudnn.allow_tf32 = cudnn
            _set_deterministic(strict)


def _set_deterministic(strict: bool) -> None:
    # Where nothing changes torch is not asked: it would load its compiler, a second a process.
    if strict != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(strict)


def _available(device: torch.device) -> bool:
    if device.type == "cpu":
        return True
    if device.type == "cuda":
        return torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    return device.type == "mps" and torch.backends.mps.is_available()
