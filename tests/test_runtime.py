"""Device, threads and flags: checked at once, set for a block, put back afterwards."""

from __future__ import annotations

import pytest
import torch

from lth.runtime import Runtime


def flags() -> tuple[object, ...]:
    return (
        torch.get_num_threads(),
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        torch.are_deterministic_algorithms_enabled(),
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_block_has_its_flags_and_puts_back_the_old_ones(precision: str) -> None:
    before = flags()
    runtime = Runtime(device="cpu", num_threads=2, deterministic=True)
    with runtime.active(precision):
        assert flags() == (2, "highest", False, True)
    assert flags() == before
    with pytest.raises(RuntimeError, match="inside"), runtime.active(precision):
        raise RuntimeError("inside")
    assert flags() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_threads": 0}, "num_threads: got 0, allowed: 1 or more"),
        ({"device": "gpu"}, "device: got 'gpu', allowed: auto, cpu, cuda"),
        ({"device": "cuda:99"}, "device: got 'cuda:99', which this machine lacks"),
        ({"device": "meta"}, "device: got 'meta', which this machine lacks"),
    ],
)
def test_refuses(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Runtime(**options)  # type: ignore[arg-type]


def test_a_precision_that_the_device_lacks_is_refused() -> None:
    refusal = pytest.raises(ValueError, match="got 'tf32', which cpu lacks, allowed: fp32, bf16")
    with refusal, Runtime(device="cpu").active("tf32"):
        pass


def test_auto_names_a_device() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert Runtime().torch_device.type == expected


def test_numerics_are_what_moves_bits() -> None:
    one = Runtime(device="cpu").numerics()
    assert one == {
        "device": "cpu",
        "num_threads": 1,
        "deterministic": False,
        "torch": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
    assert Runtime(device="cpu", num_threads=2).numerics() == {**one, "num_threads": 2}
