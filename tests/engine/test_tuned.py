"""Break-evens: measured once, remembered with the numerics, repeated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from lth import tuned as module
from lth.engine.auto import Auto
from lth.engine.break_even import BreakEvens, break_even
from lth.engine.loop import Loop
from lth.engine.mlp import MLP
from lth.runtime import Runtime
from lth.training import Training
from lth.tuned import FILE, recall, tuned

CPU = Runtime(device="cpu")
LAYERS = [(3, 5, 4), (2, 3, 4)]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """Every measurement gives another number; the layers that were measured."""
    seen: list[tuple[int, int, int]] = []

    def fake(*layer: int) -> float:
        seen.append(layer)  # type: ignore[arg-type]
        return len(seen) / 10

    monkeypatch.setattr(module, "break_even", fake)
    return seen


def test_what_was_measured_is_repeated(
    tmp_path: Path, measured: list[tuple[int, int, int]]
) -> None:
    first = recall(tmp_path / FILE, CPU, LAYERS)
    assert first == {"3x5, batch 4": 0.1, "2x3, batch 4": 0.2}
    assert recall(tmp_path / FILE, CPU, LAYERS[::-1]) == first and measured == LAYERS
    more = recall(tmp_path / FILE, CPU, [*LAYERS, (3, 5, 8)])
    assert more == {**first, "3x5, batch 8": 0.3} and measured[2:] == [(3, 5, 8)]


def test_other_numerics_have_their_own(
    tmp_path: Path, measured: list[tuple[int, int, int]]
) -> None:
    first = recall(tmp_path / FILE, CPU, LAYERS)
    two = Runtime(device="cpu", num_threads=2)
    assert recall(tmp_path / FILE, two, LAYERS) != first and len(measured) == 4
    assert recall(tmp_path / FILE, CPU, LAYERS) == first and len(measured) == 4


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"seal": "x"}', b"\xff"])
def test_a_damaged_file_is_measured_anew(
    damage: bytes, tmp_path: Path, measured: list[tuple[int, int, int]]
) -> None:
    recall(tmp_path / FILE, CPU, LAYERS)
    (tmp_path / FILE).write_bytes(damage)
    again = recall(tmp_path / FILE, CPU, LAYERS)
    assert list(again.values()) == [0.3, 0.4]
    assert recall(tmp_path / FILE, CPU, LAYERS) == again


def test_an_engine_measures_only_where_it_is_asked_to(
    tmp_path: Path, make_training: Callable[[], Training], measured: Sequence[object]
) -> None:
    training = make_training()
    for engine in (Loop(), MLP(), Auto(), Auto(sparse_below=0.1)):
        assert tuned(engine, training, CPU, tmp_path) == engine
    assert not measured and not (tmp_path / FILE).exists()


def test_numerics_tell_each_layers_break_even(
    tmp_path: Path, make_training: Callable[[], Training], measured: Sequence[object]
) -> None:
    training = make_training()
    sizes = sorted(f"{m.shape[0]}x{m.shape[1]}, batch 16" for m in training.mask.values())
    for engine in (MLP(sparse_below="measured"), Auto(sparse_below="measured")):
        told = tuned(engine, training, CPU, tmp_path).numerics(CPU, training)["sparse_below"]
        assert sorted(told) == sizes and sorted(told.values()) == [0.1, 0.2, 0.3]
    assert len(measured) == 3


def test_a_layer_goes_by_its_own_break_even() -> None:
    engine = MLP(sparse_below=BreakEvens({"3x5, batch 4": 0.7}))
    assert engine.below((3, 5), 4) == 0.7 and engine.below((3, 5), 8) == 0.0
    with pytest.raises(ValueError, match="sparse_below: got measured, which nothing was"):
        MLP(sparse_below="measured").below((3, 5), 4)


def test_a_break_even_is_a_density() -> None:
    found = break_even(60, 90, 16)
    assert 0 <= found <= 1 and found == pytest.approx(round(found / 0.05) * 0.05)
