"""Run ids: three that are frozen, and what does not enter them."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir

from lth.build import build
from lth.paths import conf_dir
from lth.run import register


def run_id(*overrides: str) -> str:
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return build(compose("run", overrides=list(overrides))).run_id


FROZEN = {
    "": "25d4f23d0f13bf5d",
    "experiments=lenet_mnist": "65f9816fe0ebb208",
    "experiments=resnet_20_lth_rewind": "0dbdeeabd8598493",
}


@pytest.mark.parametrize("override", FROZEN)
def test_frozen(override: str) -> None:
    # A shipped default that changes its meaning would orphan or mix stored runs.
    assert run_id(*filter(None, [override])) == FROZEN[override]


def test_what_bears_on_no_result_does_not_enter() -> None:
    assert (
        run_id(
            "seeds=[7]",
            "levels=3",
            "baseline=[sham]",
            "verdict_against=random_reinit",
            "num_threads=2",
            "engine=loop",
            "engine.channels_last=true",
            "data_dir=/elsewhere",
            "store.root=elsewhere",
            "sink=[]",
            "report=false",
            "keep=[5it]",
            "test_curve=true",
            "event=[gradient_norm]",
            "checkpoint_every=5it",
            "baseline_levels=[1]",
            "device=cpu",
        )
        == FROZEN[""]
    )


@pytest.mark.parametrize(
    "override",
    [
        "train_steps=900it",
        "batch_size=61",
        "rewind_step=1it",
        "prune_at=early_stop",
        "exclude=[output]",
        "order=shared",
        "streams.init=3",
        "warmup=1it",
        "eval_every=10it",
        "grad_clip=1",
        "label_smoothing=0.1",
        "distillation.teacher=dense",
        "precision=bf16",
        "endpoint=final",
        "verdict_against=shuffled_mask",
        "verdict_density=[0.1,0.2]",
        "dataset.subsample=0.5",
        "optimizer.lr=0.1",
        "optimizer=sgd",
        "criterion=random",
        "allocation=global_top",
        "schedule.rate=0.3",
        "rewind=learning_rate",
        "init=kaiming_normal",
        "lr=cosine",
    ],
)
def test_what_bears_on_results_enters(override: str) -> None:
    assert run_id(override) != FROZEN[""]
