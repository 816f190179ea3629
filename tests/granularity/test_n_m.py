"""N:M by hand: N of every M consecutive weights along the input channels."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lth.baseline.random_mask import RandomMask
from lth.baseline.shuffled_mask import ShuffledMask
from lth.granularity.n_m import NM, Pattern, grouped, n_of_m, ungrouped
from lth.schedule.targets import Targets

WIDE = {"shape": (4, 6, 6)}
"""Images whose four channels 2:4 fits."""


def bits(*rows: str) -> Tensor:
    return torch.tensor([[c == "1" for c in row] for row in rows])


def test_two_of_four_worked_by_hand() -> None:
    scores = torch.tensor(
        [
            [4.0, 1.0, 3.0, 2.0, 0.0, 0.0, 0.0, 0.0],  # the highest two; of equals the first two
            [1.0, 2.0, 2.0, 2.0, -1.0, -3.0, -2.0, -4.0],
        ]
    )
    everything = torch.ones_like(scores, dtype=torch.bool)
    expected = bits("10101100", "01101010")
    assert torch.equal(n_of_m(scores, everything, 2, 4), expected)
    # Nothing that is gone comes back, whatever its score.
    parent = bits("01111111", "11111111")
    assert torch.equal(n_of_m(scores, parent, 2, 4), bits("00111100", "01101010"))
    assert torch.equal(n_of_m(scores, everything, 1, 2), bits("10101010", "01101010"))


def test_a_convolution_is_grouped_along_its_input_channels_at_each_position() -> None:
    scores = torch.zeros(1, 4, 1, 2)
    scores[0, :, 0, 0] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    scores[0, :, 0, 1] = torch.tensor([4.0, 1.0, 2.0, 3.0])
    mask = n_of_m(scores, torch.ones_like(scores, dtype=torch.bool), 2, 4)
    assert mask[0, :, 0, 0].tolist() == [False, False, True, True]
    assert mask[0, :, 0, 1].tolist() == [True, False, False, True]
    assert torch.equal(ungrouped(grouped(scores, 4), 4), scores)


def test_a_score_that_is_no_number_is_refused() -> None:
    scores = torch.tensor([[1.0, float("nan"), 2.0, 3.0]])
    with pytest.raises(ValueError, match="not a number"):
        n_of_m(scores, torch.ones(1, 4, dtype=torch.bool), 2, 4)


@pytest.mark.parametrize(("options", "key"), [({"n": 0}, "n"), ({"n": 4}, "n"), ({"m": 1}, "m")])
def test_options_out_of_range_are_refused(options: dict[str, int], key: str) -> None:
    with pytest.raises(ValueError, match=f"^{key}: got .*, allowed: "):
        NM(**options)


def grain(granularity: NM, module: nn.Module, *excluded: str) -> Pattern:
    layers = {n: "conv" for n, p in module.named_parameters() if p.ndim > 1}
    return granularity(module, layers=layers, excluded=frozenset(excluded), input_shape=())


def test_a_layer_that_does_not_fit_stays_whole() -> None:
    module = nn.ModuleDict(
        {"a": nn.Linear(6, 2), "b": nn.Conv2d(8, 2, 3), "c": nn.Conv2d(8, 8, 3, groups=4)}
    )
    assert grain(NM(), module).excluded == {"a.weight", "c.weight"}
    assert grain(NM(n=1, m=2), module).excluded == frozenset()
    assert grain(NM(n=1, m=2), module, "b.weight").excluded == {"b.weight"}
    with pytest.raises(ValueError, match=r"^m: got 5, allowed: a divisor of .*a.weight 6"):
        grain(NM(m=5), module)


def in_pattern(mask: Tensor) -> bool:
    return bool((grouped(mask, 4).sum(-1) == 2).all())


def test_a_run_and_its_controls_keep_the_pattern(
    make_search: Any, make_workshop: Callable[..., Any], tiny_task: Callable[..., Any]
) -> None:
    """conv1 and conv2 see 4 channels; fc sees 6 and stays whole, in controls too."""
    search = make_search(
        levels=1,
        tasks={0: tiny_task(**WIDE)},
        granularity=NM(),
        baselines={"shuffled_mask": ShuffledMask(draws=2), "random_mask": RandomMask(draws=2)},
    )
    (dense,), (ticket, *controls) = search.run(make_workshop())
    assert len(controls) == 4
    seen = []
    for row in (ticket, *controls):
        mask = row.training.mask
        assert in_pattern(mask["conv1.weight"]) and in_pattern(mask["conv2.weight"])
        assert bool(mask["fc.weight"].all())
        assert row.stored.done["density"] == (72 + 108 + 18) / (144 + 216 + 18)
        seen.append(tuple(mask["conv2.weight"].flatten().tolist()))
    assert len(set(seen)) == 5, "every draw is another mask"
    magnitude = dense.stored.state("end").weights["conv2.weight"].abs()
    expected = n_of_m(magnitude, torch.ones_like(magnitude, dtype=torch.bool), 2, 4)
    assert torch.equal(ticket.training.mask["conv2.weight"], expected)


def test_a_shuffle_permutes_within_each_group() -> None:
    """All six arrangements of a group are as likely: 600 groups, chi-squared below its 99.9 %."""
    module = nn.ModuleDict({"a": nn.Linear(4 * 600, 1)})
    own = grain(NM(), module)
    mask = {"a.weight": torch.tensor([True, True, False, False]).repeat(600)[None]}
    shuffled = own.shuffle(mask, torch.Generator().manual_seed(0))["a.weight"]
    assert in_pattern(shuffled)
    codes = (grouped(shuffled, 4).int() * torch.tensor([8, 4, 2, 1])).sum(-1).flatten()
    counts = torch.bincount(codes, minlength=16)
    assert int((counts > 0).sum()) == 6
    chi = ((counts[counts > 0] - 100.0).square() / 100).sum()
    assert chi < 20.5


def test_a_density_cannot_be_asked_for(
    make_search: Any, make_workshop: Callable[..., Any], tiny_task: Callable[..., Any]
) -> None:
    search = make_search(
        levels=1, tasks={0: tiny_task(**WIDE)}, granularity=NM(), schedule=Targets(densities=[0.5])
    )
    with pytest.raises(ValueError, match=r"densities: got 0.5, allowed: a schedule of rates"):
        list(search.run(make_workshop()))


def test_a_network_that_no_group_fits_is_refused(make_search: Any) -> None:
    search = functools.partial(make_search, granularity=NM(n=1, m=5))
    with pytest.raises(ValueError, match=r"m: got 5, allowed: a divisor"):
        _ = search().grain
