"""A stored configuration in human words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def question(config: Mapping[str, Any], against: str) -> str:
    """What the run asks."""
    model = name_of(config["model"])
    data = name_of(config["dataset"])
    return (
        f"Does {name_of(config['criterion'])} pruning of {model} on {data} find a sparse "
        f"subnetwork that trains better than its control {against}, and how sparse can it be and "
        "still match the dense network?"
    )


def name_of(component: Any) -> str:
    """A component's own name, without its import path."""
    return str(component["name"]).rpartition(".")[2] if component else "none"


def describe(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what, value) for each part of a semantic configuration."""
    titles = {
        "dataset": "Data",
        "model": "Network",
        "init": "Initialisation",
        "optimizer": "Optimizer",
        "lr": "Learning-rate schedule",
        "criterion": "Scores",
        "allocation": "Budget over layers",
        "schedule": "Pruning schedule",
        "finder": "Mask found by",
        "rewind": "Rewinding",
    }
    lines = [(title, component(config[key])) for key, title in titles.items() if config.get(key)]
    rest = {k: v for k, v in config.items() if k not in titles}
    lines.append(("Training", _training(rest)))
    shown = {"train_steps", "batch_size", "rewind_step", "eval_every", "endpoint", "warmup"}
    others = {k: v for k, v in rest.items() if k not in shown}
    if others:
        lines.append(("Also", ", ".join(f"{k} = {_value(v)}" for k, v in sorted(others.items()))))
    return lines


def component(value: Any) -> str:
    """A component with the options that differ from its defaults."""
    options = {k: v for k, v in value.items() if k != "name"}
    text = ", ".join(f"{k.replace('_', ' ')} {_value(v)}" for k, v in sorted(options.items()))
    return f"{name_of(value)} ({text})" if text else name_of(value)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return (
            component(value)
            if "name" in value
            else ("{" + ", ".join(f"{k}: {_value(v)}" for k, v in sorted(value.items())) + "}")
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _training(config: Mapping[str, Any]) -> str:
    steps = config.get("train_steps", "1000it")
    text = f"{steps} in batches of {config.get('batch_size', 60)}"
    text += f", evaluated every {config.get('eval_every', '100it')}"
    rewind = str(config.get("rewind_step", "0it"))
    text += f", rewound to step {rewind}" if rewind != "0it" else ", rewound to initialisation"
    if config.get("warmup", "0it") != "0it":
        text += f", warm-up over {config['warmup']}"
    where = {"early_stop": "early stop", "final": "the end of training"}
    return f"{text}; read at {where[config.get('endpoint', 'early_stop')]}"
