"""A stored configuration in human words."""

from __future__ import annotations

from typing import Any

import pytest

from analysis import words
from lth.paths import conf_dir

CONFIG: dict[str, Any] = {
    "allocation": {"name": "Layerwise"},
    "criterion": {"name": "magnitude"},
    "dataset": {"name": "MNIST", "normalize": "unit"},
    "init": {"name": "GlorotNormal"},
    "lr": {"name": "Constant"},
    "model": {"name": "LeNet300100"},
    "optimizer": {"name": "Adam", "lr": 0.0012, "betas": [0.9, 0.999], "eps": 1e-8},
    "rewind": {"name": "Matrix"},
    "schedule": {"name": "Geometric", "rate": 0.2},
}


def told(**changes: Any) -> dict[str, str]:
    return dict(words.describe({**CONFIG, **changes}))


def test_the_default_protocol() -> None:
    lines = told()
    assert lines["Data"] == "MNIST (normalize unit)"
    assert lines["Network"] == "LeNet-300-100"
    assert lines["Training"] == "1,000 updates on batches of 60 examples"
    assert lines["Optimizer"] == "Adam at learning rate 0.0012, held constant"
    assert lines["Pruning schedule"] == "20 % of the weights that are left"
    assert lines["Budget over layers"] == (
        "each layer loses its own lowest scores, the output layer at 0.5 times the rate"
    )
    assert lines["Rewinding"] == (
        "What survives is trained from its initial weights, and the learning-rate schedule starts "
        "over"
    )
    assert "early stop" in lines["Endpoint"] and "every 100 updates" in lines["Endpoint"]
    assert "Also" not in lines


@pytest.mark.parametrize(
    ("rewind", "text"),
    [
        ({}, "its weights after 500 updates, and the learning-rate schedule goes on"),
        ({"schedule": "hold"}, "its weights after 500 updates, and the learning rate stays"),
        ({"weights": "final"}, "its trained weights, and the learning-rate schedule goes back to"),
        ({"weights": "final", "schedule": "hold"}, "trained weights, and the learning rate stays"),
        ({"weights": "initial", "schedule": "restart"}, "initial weights, and the learning-rate"),
        ({"optimizer": "saved"}, "optimizer saved"),
    ],
)
def test_every_rewinding_reads_as_what_it_is(rewind: dict[str, str], text: str) -> None:
    lines = told(rewind={"name": "Matrix", **rewind}, rewind_step="500it")
    assert text in lines["Rewinding"]


def test_other_choices_are_told_with_their_numbers() -> None:
    lines = told(
        optimizer={"name": "SGD", "lr": 0.1, "momentum": 0.9, "weight_decay": 0},
        lr={"name": "MultiStep", "milestones": ["20000it", "25000it"]},
        warmup="2ep",
        train_steps="1ep30it",
        batch_size=128,
        allocation={"name": "GlobalTop"},
        schedule={"name": "Targets", "densities": [0.5, 0.05]},
        endpoint="final",
        exclude=["output"],
        finder={"name": "DynamicSparse", "growth": "random"},
    )
    assert lines["Training"] == "1 epoch and 30 updates on batches of 128 examples"
    assert lines["Optimizer"] == (
        "SGD at learning rate 0.1 (momentum 0.9), multiplied by 0.1 at 20,000 updates and 25,000 "
        "updates, after a warm-up of 2 epochs"
    )
    assert lines["Pruning schedule"] == "to a given density (50 %, 5 %)"
    assert lines["Budget over layers"].startswith("all layers compete")
    assert lines["Endpoint"] == "Test accuracy is read at the end of training"
    assert lines["Also"] == "exclude = [output]"
    assert lines["Masks found by"].endswith("(growth random)")


def test_granularities_are_told() -> None:
    assert "Pruned whole" not in told()
    lines = told(granularity={"name": "NM", "m": 8})
    assert lines["Pruning schedule"] == "all but 2 of every 8 weights along the input channels"
    assert lines["Budget over layers"].startswith("the pattern fixes the density")
    lines = told(granularity={"name": "Blocks", "rows": 4})
    assert lines["Pruned whole"] == "blocks of 4 x 2 weights"
    assert lines["Pruning schedule"].endswith(" % of the blocks of 4 x 2 weights that are left")
    lines = told(granularity={"name": "Units", "reduce": "mean"})
    assert lines["Pruning schedule"].endswith(" % of the units that are left")
    assert lines["Pruned whole"].endswith("scored by the mean of their weights' scores)")
    lines = told(granularity={"name": "ResidualBlocks"})
    assert lines["Pruning schedule"].endswith(" % of the residual blocks that are left")
    assert lines["Budget over layers"].startswith("all blocks compete")
    assert "Also" not in lines or "granularity" not in lines["Also"]


def test_given_densities_are_told() -> None:
    own = {"name": "Given", "densities": {"*": 0.5, "fc3.weight": 1.0}}
    lines = told(allocation=own)
    assert lines["Pruning schedule"] == "at once, to densities that are given"
    assert lines["Budget over layers"] == (
        "each layer keeps a given share of its weights (* 50 %, fc3.weight 100 %)"
    )
    lines = told(allocation=own, granularity={"name": "Units"})
    assert lines["Budget over layers"].startswith("each layer keeps a given share of its units (* ")


def test_what_pruned_weights_hold_and_who_teaches_are_told() -> None:
    assert not {"Pruned weights", "Teacher"} & told().keys()
    teacher = {"teacher": "dense", "temperature": 4, "weight": 0.9}
    changes = {"fill": "initial", "distillation": teacher}
    lines = told(**changes)
    assert lines["Pruned weights"] == "frozen at their initial values, not at 0"
    assert lines["Teacher"] == "the dense network (distillation, weight 0.9, temperature 4)"
    assert "Also" not in lines
    text = words.paragraph({**CONFIG, **changes})
    assert "Pruned weights are frozen at their initial values, not at 0. What survives" in text
    assert "the networks also learn from the dense network" in text
    stored = told(distillation={**teacher, "teacher": "0123abcd"})
    assert stored["Teacher"].startswith("a stored network (")


def test_every_control_and_every_finder_has_words() -> None:
    conf = conf_dir()
    for file in conf.glob("baseline/*.yaml"):
        assert words.variant(file.stem, CONFIG) != "a control of its own name", file.stem
    for file in conf.glob("finder/*.yaml"):
        assert file.stem in words.VARIANTS, file.stem


def test_a_component_without_words_is_told_by_name_and_options() -> None:
    lines = told(
        model={"name": "mine.Net", "width": 3},
        allocation={"name": "mine.Fair", "rates": {"a": 0.5}},
        schedule={"name": "mine.Sudden"},
        lr={"name": "Cosine", "floor": 0.1},
    )
    assert lines["Network"] == "Net (width 3)"
    assert lines["Budget over layers"] == "Fair (rates {a: 0.5})"
    assert lines["Pruning schedule"] == "Sudden"
    assert lines["Optimizer"].endswith(", Cosine (floor 0.1) schedule")
    assert words.variant("mine", CONFIG) == "a control of its own name"
    assert words.variant("random_reinit+dense_k", CONFIG).endswith("fresh random weights (dense_k)")


def test_names_and_steps() -> None:
    assert words.spoken({"name": "ResNet20"}) == "ResNet-20"
    assert words.spoken({"name": "CIFAR10"}) == "CIFAR-10"
    assert words.title(CONFIG) == "Lottery tickets in LeNet-300-100 on MNIST"
    assert words.steps("1it") == "1 update" and words.steps("3ep") == "3 epochs"
    assert words.question(CONFIG, "random_reinit").count("?") == 2
    assert words.paragraph(CONFIG).startswith("1,000 updates on batches of 60 examples, by Adam")


@pytest.mark.parametrize(
    ("ticket", "what", "start"),
    [
        ({"mask": "ab", "start": "cd"}, "the mask and the values", "from another run's dense"),
        ({"mask": "ab"}, "the mask", "from its initial weights"),
        ({"0": {"start": "cd", "final": True}}, "the values", "from another run's trained weights"),
    ],
)
def test_a_ticket_of_another_run_is_said_to_be_one(
    ticket: dict[str, Any], what: str, start: str
) -> None:
    lines = told(ticket=ticket)
    assert lines["Ticket"] == f"{what} of a ticket of another run"
    assert start in lines["Rewinding"]
    assert not {"Scores", "Pruning schedule", "Budget over layers", "Also"} & lines.keys()
    config = {**CONFIG, "ticket": ticket}
    assert f"Level 1 is {what} of a ticket" in words.paragraph(config)
    assert "found by another run and trained" in words.question(config, "random_reinit")
