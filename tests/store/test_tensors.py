"""Masks and states as safetensors: round trips, one metadata key, canonical bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lth import mask as masks
from lth.store.tensors import decode, decode_mask, decode_state, encode, encode_mask, encode_state
from lth.types import TrainState

SHAPES = st.lists(st.integers(0, 4), min_size=0, max_size=4).map(tuple)
DTYPES = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16])
FEW = settings(max_examples=40, deadline=None)


def tensor(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.to(dtype)


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Equal names, dtypes, shapes and bits (0.0 is not -0.0)."""

    def bits(t: Tensor) -> tuple[Any, ...]:
        raw = t.contiguous().reshape(-1)
        return t.dtype, tuple(t.shape), raw.view(torch.uint8).tolist() if raw.numel() else []

    return a.keys() == b.keys() and all(bits(a[n]) == bits(b[n]) for n in a)


def header(data: bytes) -> dict[str, Any]:
    length = int.from_bytes(data[:8], "little")
    loaded: dict[str, Any] = json.loads(data[8 : 8 + length])
    return loaded


@st.composite
def parts(draw: st.DrawFn) -> tuple[dict[str, Tensor], TrainState]:
    """A mask over some weights, and a state with weights, buffers and slots of odd shapes."""
    seed = draw(st.integers(0, 9))
    weights, mask, slots = {}, {}, {}
    for name in draw(st.sets(st.sampled_from(["a.weight", "b/c.weight", "d"]), max_size=3)):
        shape, dtype = draw(SHAPES), draw(DTYPES)
        weights[name] = tensor(shape, dtype, seed)
        if draw(st.booleans()):
            density = draw(st.sampled_from([0.0, 0.3, 1.0]))
            generator = torch.Generator().manual_seed(seed)
            mask[name] = torch.rand(shape, generator=generator) < density
        slots[f"{name}/exp_avg"] = tensor(shape, dtype, seed + 1)
        slots[f"{name}/step"] = torch.tensor(3.0)
    buffers = {
        "n": torch.tensor(2**53 + 1),
        "flags": torch.tensor([True, False]),
        "mean": tensor(draw(SHAPES), torch.bfloat16, seed),
    }
    state = TrainState(
        step=draw(st.integers(0, 10**6)),
        weights=weights,
        buffers=buffers if draw(st.booleans()) else {},
        optimizer=slots if draw(st.booleans()) else None,
    )
    return mask, state


@FEW
@given(parts())
def test_masks_and_states_come_back_to_the_last_bit(
    made: tuple[dict[str, Tensor], TrainState],
) -> None:
    mask, state = made
    assert same(decode_mask(encode_mask(mask)), mask)
    back = decode_state(encode_state(state, mask), mask)
    expected = masks.apply_state(state, mask)
    assert back.step == state.step
    assert same(back.weights, expected.weights)
    assert same(back.buffers, expected.buffers)
    assert (back.optimizer is None) == (state.optimizer is None)
    assert same(back.optimizer or {}, expected.optimizer or {})


@FEW
@given(parts())
def test_equal_contents_are_equal_bytes_in_any_order(
    made: tuple[dict[str, Tensor], TrainState],
) -> None:
    mask, state = made

    def turned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {n: tensors[n].clone() for n in reversed(list(tensors))}

    again = TrainState(
        step=state.step,
        weights=turned(state.weights),
        buffers=turned(state.buffers),
        optimizer=None if state.optimizer is None else turned(state.optimizer),
    )
    assert encode_state(state, mask) == encode_state(again, turned(mask))
    assert encode_mask(mask) == encode_mask(turned(mask))
    for data in (encode_state(state, mask), encode_mask(mask)):
        assert list(header(data)["__metadata__"]) == ["lth"]


def test_a_mask_is_eight_positions_a_byte_the_first_in_the_highest_bit() -> None:
    bits = torch.tensor([[True, False, False], [False, True, False], [True, True, True]])
    tensors, meta = decode(encode_mask({"w": bits}))
    assert tensors["w"].tolist() == [0b10001011, 0b10000000]
    assert meta == {"shapes": {"w": [3, 3]}}


def test_survivors_are_stored_in_mask_order_and_nothing_else() -> None:
    weights = {"w": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "bias": torch.tensor([5.0])}
    mask = {"w": torch.tensor([[False, True], [True, False]])}
    state = TrainState(step=7, weights=weights, buffers={}, optimizer={"w/m": weights["w"]})
    tensors, meta = decode(encode_state(state, mask))
    assert {n: t.tolist() for n, t in tensors.items()} == {
        "weights/w": [2.0, 3.0],
        "weights/bias": [5.0],
        "optimizer/w/m": [2.0, 3.0],
    }
    assert meta == {
        "step": 7,
        "packed": {"weights/w": [2, 2], "optimizer/w/m": [2, 2]},
        "optimizer": True,
    }


def test_a_state_of_nothing_but_pruned_weights() -> None:
    mask = {"w": torch.zeros(3, 5, dtype=torch.bool)}
    state = TrainState(step=0, weights={"w": torch.ones(3, 5)}, buffers={})
    assert same(decode_state(encode_state(state, mask), mask).weights, {"w": torch.zeros(3, 5)})


def test_a_file_shrinks_with_the_density() -> None:
    weights = {"w": torch.ones(100, 100)}
    state = TrainState(step=0, weights=weights, buffers={})
    sizes = []
    for kept in (10_000, 5_000, 100):
        mask = masks.keep_top({"w": weights["w"]}, masks.full(weights, ["w"]), kept)
        sizes.append(len(encode_state(state, mask)))
    assert sizes[0] - sizes[1] == 4 * 5_000
    assert sizes[1] - sizes[2] == pytest.approx(4 * 4_900, abs=16)  # the header is padded


def test_tied_weights_and_views_are_stored_as_copies() -> None:
    shared = torch.arange(6.0)
    tensors, _ = decode(encode({"a": shared, "b": shared.view(2, 3).t()}, {}))
    assert tensors["b"].tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        bytes(8),
        b"\xff" * 16,
        (2).to_bytes(8, "little") + b"[]",
        (2).to_bytes(8, "little") + b"{}",
        (20).to_bytes(8, "little") + b'{"__metadata__":[1]}',
        encode({"w": torch.ones(4)}, {})[:-1],
    ],
)
def test_what_is_no_such_file_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a safetensors file"):
        decode(data)
