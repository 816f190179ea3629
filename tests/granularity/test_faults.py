"""What granularities cannot be combined with, from the composed configuration; one line each."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import nn

from lth.build import Run, build
from lth.config import ConfigError
from lth.coupling import coupled
from lth.paths import conf_dir
from lth.plan import _units
from lth.prepare import prepare, read_data
from lth.run import register
from lth.search import Search


def searched(*overrides: str) -> Search:
    run = built(*overrides)
    return prepare(run, read_data(run))


def built(*overrides: str) -> Run:
    register()
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        return build(compose("run", overrides=["device=cpu", "levels=1", "seeds=[0]", *overrides]))


RESNET = ("model=resnet_20", "model.width=4")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["n_m", "levels=3"], "levels: got 3, allowed: 0 or 1"),
        (["n_m", "score_steps=4"], "score_steps: got 4, allowed: 1"),
        (["n_m", "granularity.m=7"], "granularity.m: got 7, allowed: a divisor of input channels"),
        (["n_m", "granularity.n=4"], "granularity.n: got 4, allowed: 1 to 3"),
        (["n_m", "finder=gradual"], "finder: got Gradual, allowed: null"),
        (["blocks", "granularity.rows=7", "granularity.columns=7"], "granularity.rows: got 7 x 7"),
        (["blocks", "allocation=erk"], "allocation: got ErdosRenyi, allowed: one that does not"),
        (["units", "finder=rigl"], "finder: got DynamicSparse, allowed: null"),
        (
            ["weights", "finder=early_bird_channels"],
            "finder: got EarlyBirdChannels, allowed: another",
        ),
        (
            ["units", "finder=early_bird_channels"],
            "finder: got EarlyBirdChannels, allowed: another (no BatchNorm scales the units of fc1",
        ),
        (["units", "finder=early_bird_channels", "model=resnet_20"], None),
        (["units", "exclude=[linear,output]"], "granularity: no layer's units may be pruned"),
        (
            ["units", "schedule=targets", "schedule.densities=[0.5]"],
            "schedule.densities: got 0.5, allowed: a schedule of rates",
        ),
        (
            ["residual_blocks"],
            "granularity: got residual_blocks, allowed: a network with shortcuts around its "
            "layers (LeNet300100 has none",
        ),
        (
            ["residual_blocks", "baseline=[smart_ratio]"],
            "granularity: got residual_blocks, allowed",
        ),
        (
            ["residual_blocks", "model=vgg_11", "dataset=synthetic", "dataset.shape=[1,32,32]"],
            "gra",
        ),
        (["residual_blocks", *RESNET, "exclude=[conv]"], "granularity: no residual block may be"),
        (
            ["residual_blocks", *RESNET, "allocation=erk"],
            "allocation: got ErdosRenyi, allowed: one",
        ),
        (
            ["residual_blocks", *RESNET, "allocation.rates={conv:0.1}"],
            "allocation.rates: got 'conv', allowed: a layer type (block)",
        ),
        (
            ["residual_blocks", *RESNET, "schedule=targets", "schedule.densities=[0.5]"],
            "schedule.densities: got 0.5, allowed: a schedule of rates",
        ),
        (["residual_blocks", *RESNET, "finder=rigl"], "finder: got DynamicSparse, allowed: null"),
        (["residual_blocks", *RESNET], None),
        (["n_m", "model=conv_2", "exclude=[linear]"], None),
        (["n_m", "allocation=erk"], None),
    ],
)
def test_what_does_not_go_together_is_refused(overrides: list[str], message: str | None) -> None:
    options = [f"granularity={overrides[0]}", *overrides[1:]]
    if message is None:
        assert searched(*options).grain.layers
        return
    with pytest.raises(ConfigError) as caught:
        searched(*options)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_layers_that_stay_whole_are_said() -> None:
    """conv1 sees one channel."""
    (line,) = _units(searched("granularity=n_m", "model=conv_2", "model.width=4"))
    assert line.endswith(" (n_m n=2 m=4); not pruned are those of conv1.weight")
    (line,) = _units(searched("granularity=units"))
    assert line == "  units      400 (units reduce=sum); not pruned are those of fc3.weight"
    (line,) = _units(searched("granularity=n_m"))
    assert line == "  units      50,200 (n_m n=2 m=4)"
    assert _units(searched()) == []


def test_only_another_granularity_is_another_run() -> None:
    plain = built().run_id
    assert built("granularity=weights").run_id == built("~granularity").run_id == plain
    ids = {built(f"granularity={n}").run_id for n in ("n_m", "blocks", "units", "residual_blocks")}
    assert len(ids | {plain}) == 5


def test_a_configuration_from_before_the_key_was_known_is_built() -> None:
    config = dict(built().config)
    del config["granularity"]
    assert build(config).run_id == built().run_id


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    module: Any = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with pytest.raises(ValueError, match=r"torch-pruning, which is not installed: pip install"):
        coupled(module, (1, 2, 2))
    assert torch.is_grad_enabled()
