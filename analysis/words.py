"""A stored configuration in human words, from ``config.yaml`` alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

Config = Mapping[str, Any]

NAMES = {
    "LeNet300100": "LeNet-300-100",
    "Digits": "handwritten digits",
    "FashionMNIST": "Fashion-MNIST",
    "KMNIST": "Kuzushiji-MNIST",
    "ImageFolder": "a folder of images",
    "Synthetic": "synthetic images",
    "GlorotNormal": "Gaussian Glorot",
    "KaimingNormal": "Gaussian Kaiming",
    "KaimingUniform": "uniform Kaiming",
    "PyTorch": "PyTorch's default",
    "SignedConstant": "signed constants",
    "DynamicSparse": "dynamic sparse training (weights drop out and grow back)",
    "MovementSanh": "movement",
    "EarlyBird": "early-bird tickets",
    "EarlyBirdChannels": "early-bird tickets of channels",
    "Evolve": "evolved layer densities",
    "EdgePopup": "edge-popup (scores are trained, weights never)",
    "Supermask": "supermasks (chances are trained, weights never)",
    "Gradual": "gradual pruning within one training",
}
"""Where a component's own name would not do; others are told by their names."""

VARIANTS = {
    "random_reinit": "the ticket's mask with fresh random weights",
    "shuffled_mask": "the ticket's start under its mask, shuffled within each layer",
    "random_mask": "the ticket's start under a random mask with as many weights",
    "sign_reinit": "the ticket's mask with fresh magnitudes, signs kept",
    "same_mask": "the ticket's mask from another start or schedule",
    "other_order": "the ticket itself, trained on another order of the data",
    "sham": "nothing pruned: dense weights trained again as the ticket was",
    "edge_popup": "the subnetwork as it was found, its weights never trained",
    "supermask": "the subnetwork as it was found, its weights never trained",
    "inverted_scores": "the weights that the criterion likes least, as many in each layer",
    "smart_ratio": "the ticket's start under a random mask that thins out with depth",
    "small_dense": "a narrower network with as many weights, never pruned",
    "dense_total": "dense, trained for the steps of the ticket's search and training",
    "early_mask_late_weights": "the dense network's end under a mask scored at its start",
    "late_mask_early_weights": "the ticket's mask on the dense network's initial weights",
    "corrupted_task": "the ticket's start under a mask found on corrupted data",
    "reshuffled_weights": "the ticket's start values, shuffled among its weights layer by layer",
    "constant_sign": "the ticket's signs, all weights of a layer equally large",
    "sparse_reinit": "the ticket's mask with fresh weights scaled to its sparse units",
    "rigl": "the training whose mask moved, growing weights by their gradients",
    "set": "the training whose mask moved, growing weights at random",
    "gradual": "the training that was pruned on its way",
    "early_bird": "the training that ran until its mask stood still",
    "evolve": "the short training whose layer densities won",
    "early_bird_channels": "the training that ran until its channels stood still",
    "static": "the mask that a moving one began with, kept as it was",
}

FILLS = {
    "initial": "frozen at their initial values, not at 0",
    "by_movement": "frozen at their initial values if their magnitude did not fall, else at 0",
}


def name_of(component: Config | None) -> str:
    """A component's own name, without its import path."""
    return str(component["name"]).rpartition(".")[2] if component else "none"


def spoken(component: Config) -> str:
    """A component's name as people write it: ``ResNet20`` is ResNet-20."""
    own = name_of(component)
    return NAMES.get(own, re.sub(r"(?<=[A-Za-z])(?=\d)", "-", own).replace("_", " "))


def title(config: Config) -> str:
    """What the run is about."""
    return f"Lottery tickets in {spoken(config['model'])} on {spoken(config['dataset'])}"


def question(config: Config, against: str) -> str:
    """What the run asks."""
    control = VARIANTS.get(against.partition("+")[0], against)
    how = f"by {spoken(config['criterion'])} pruning"
    if config.get("ticket"):
        how = "by another run"
    elif config.get("finder"):
        how = "while training"
    return (
        f"Does a sparse part of {spoken(config['model'])}, found {how} and trained "
        f"{_from(config)}, learn {spoken(config['dataset'])} better than {against} ({control})? "
        "And how sparse can it be and still match the dense network?"
    )


def variant(name: str, config: Config) -> str:
    """What a line of a figure is."""
    if name == "ticket":
        return f"the surviving weights, trained {_from(config)}"
    if name == "dense":
        return "the whole network, level 0"
    base, _, options = name.partition("+")
    text = VARIANTS.get(base, "a control of its own name")
    return f"{text} ({options})" if options else text


def paragraph(config: Config) -> str:
    """The set-up in sentences; ``describe`` has all of it."""
    parts = dict(describe(config))
    level = f"Level 1 is {parts.get('Ticket')}"
    if not config.get("ticket"):
        level = f"Each level prunes {parts['Pruning schedule']}: {parts['Budget over layers']}"
    text = f"{_capital(parts['Training'])}, by {parts['Optimizer']}. {level}."
    if "Pruned weights" in parts:
        text += f" Pruned weights are {parts['Pruned weights']}."
    text += f" {parts['Rewinding']}."
    if "Teacher" in parts:
        text += f" From level 1 on the networks also learn from {parts['Teacher']}."
    return f"{text} {parts['Endpoint']}."


def describe(config: Config) -> list[tuple[str, str]]:
    """(what, in words) for each part of a configuration; whatever has no words as key = value."""
    rows = [
        ("Data", _with_options(config["dataset"])),
        ("Network", _with_options(config["model"])),
        ("Initialisation", _with_options(config["init"])),
        ("Training", _training(config)),
        ("Optimizer", _optimizer(config)),
        *_pruning(config),
        ("Rewinding", _rewinding(config)),
        *_teacher(config),
        ("Endpoint", _endpoint(config)),
    ]
    if config.get("finder"):
        rows.insert(5, ("Masks found by", _with_options(config["finder"])))
    told = {"dataset", "model", "init", "optimizer", "lr", "criterion", "schedule", "allocation"}
    if config.get("granularity", {}).get("name") not in (None, "NM"):
        rows.insert(5, ("Pruned whole", _units(config)))
    told |= {
        "rewind",
        "finder",
        "granularity",
        "ticket",
        "train_steps",
        "batch_size",
        "warmup",
        "rewind_step",
    }
    told |= {"distillation", *(["fill"] if config.get("fill") in FILLS else [])}
    told |= {"eval_every", "endpoint", "verdict_against", "verdict_density"}
    rest = [f"{k} = {_value(v)}" for k, v in sorted(config.items()) if k not in told]
    return [*rows, ("Also", ", ".join(rest))] if rest else rows


def steps(text: Any) -> str:
    """``1ep30it`` is 1 epoch and 30 updates."""
    match = re.fullmatch(r"(?:(\d+)ep)?(?:(\d+)it)?", str(text))
    if match is None:
        return str(text)
    found = [
        f"{int(count):,} {unit}{'' if int(count) == 1 else 's'}"
        for count, unit in zip(match.groups(), ("epoch", "update"), strict=True)
        if count
    ]
    return " and ".join(found) or "0 updates"


def _pruning(config: Config) -> list[tuple[str, str]]:
    """How masks are made, or what was brought in instead; what pruned weights hold."""
    ticket, fill = brought(config), config.get("fill")
    filled = [("Pruned weights", FILLS[fill])] if fill in FILLS else []
    if ticket is None:
        return [
            ("Scores", _with_options(config["criterion"])),
            ("Pruning schedule", _schedule(config)),
            ("Budget over layers", _allocation(config)),
            *filled,
        ]
    names = {"mask": "the mask", "start": "the values"}
    parts = [name for key, name in names.items() if key in ticket]
    return [("Ticket", f"{' and '.join(parts)} of a ticket of another run"), *filled]


def _teacher(config: Config) -> list[tuple[str, str]]:
    """Whose outputs are part of the loss, and how much."""
    own = config.get("distillation")
    if not own or not own.get("teacher"):
        return []
    who = "the dense network" if own["teacher"] == "dense" else "a stored network"
    weight, heat = (_value(own[key]) for key in ("weight", "temperature"))
    return [("Teacher", f"{who} (distillation, weight {weight}, temperature {heat})")]


def brought(config: Config) -> Config | None:
    """What of another run's ticket is level 1: the digests of one of them; None where pruned."""
    ticket: Config | None = config.get("ticket")
    if not ticket or {"mask", "start"} & ticket.keys():
        return ticket
    first: Config = next(iter(ticket.values()))
    return first


def _training(config: Config) -> str:
    text = f"{steps(config.get('train_steps', '1000it'))} on batches of "
    return text + f"{config.get('batch_size', 60)} examples"


def _optimizer(config: Config) -> str:
    own = config["optimizer"]
    # What torch takes when nothing is said is not worth a reader's time.
    usual = {"betas": [0.9, 0.999], "eps": 1e-8}
    given = {k: v for k, v in own.items() if k not in ("name", "lr") and v and usual.get(k) != v}
    text = f"{spoken(own)} at learning rate {_value(own.get('lr', 'of its default'))}"
    if given:
        text += (
            " (" + ", ".join(f"{_spaced(k)} {_value(v)}" for k, v in sorted(given.items())) + ")"
        )
    shape = config["lr"]
    if shape["name"] == "Constant":
        text += ", held constant"
    elif shape["name"] == "MultiStep":
        drops = " and ".join(steps(m) for m in shape.get("milestones", []))
        text += f", multiplied by {_value(shape.get('gamma', 0.1))} at {drops}"
    else:
        text += f", {_with_options(shape)} schedule"
    warm = config.get("warmup", "0it")
    return text if warm == "0it" else f"{text}, after a warm-up of {steps(warm)}"


def _units(config: Config) -> str:
    """What is pruned whole, in the plural."""
    own = config.get("granularity") or {"name": "Weights"}
    if own["name"] == "Weights":
        return "weights"
    if own["name"] == "Blocks":
        return f"blocks of {own.get('rows', 2)} x {own.get('columns', 2)} weights"
    if own["name"] == "Units":
        score = f"scored by the {own.get('reduce', 'sum')} of their weights' scores"
        return f"units (neurons, filters, channels with all that hangs on them, {score})"
    if own["name"] == "ResidualBlocks":
        score = "scored by the mean of their weights' scores"
        return f"residual blocks (down to their shortcuts, {score})"
    return _with_options(own)


def _schedule(config: Config) -> str:
    schedule, own = config["schedule"], config.get("granularity") or {}
    if own.get("name") == "NM":
        return (
            f"all but {own.get('n', 2)} of every {own.get('m', 4)} weights along the input channels"
        )
    if config["allocation"]["name"] == "Given":
        return "at once, to densities that are given"
    rate = f"{100 * float(schedule.get('rate', 0.2)):g} %"
    if schedule["name"] == "Geometric":
        return f"{rate} of the {_units(config).partition(' (')[0]} that are left"
    if schedule["name"] == "OneShot":
        return f"the dense network at once, to what that many rounds of {rate} would leave"
    if schedule["name"] == "Targets":
        wanted = ", ".join(f"{100 * d:g} %" for d in schedule["densities"])
        return f"to a given density ({wanted})"
    return _with_options(schedule)


def _allocation(config: Config) -> str:
    allocation = config["allocation"]
    if (config.get("granularity") or {}).get("name") == "NM":
        return "the pattern fixes the density of every layer that it fits"
    if allocation["name"] == "Given":
        own = ", ".join(f"{k} {100 * float(v):g} %" for k, v in allocation["densities"].items())
        return f"each layer keeps a given share of its {_units(config).partition(' (')[0]} ({own})"
    if (config.get("granularity") or {}).get("name") == "ResidualBlocks":
        return "all blocks compete, and the lowest scores go"
    if allocation["name"] == "GlobalTop":
        return "all layers compete, and the lowest scores of the network go"
    if allocation["name"] != "Layerwise":
        return _with_options(allocation)
    text = "each layer loses its own lowest scores"
    output = float(allocation.get("output", 0.5))
    if output != 1:
        text += f", the output layer at {output:g} times the rate"
    rates = allocation.get("rates") or {}
    own = ", ".join(f"{k} {100 * float(v):g} %" for k, v in rates.items())
    return f"{text} (own rates: {own})" if own else text


def _from(config: Config) -> str:
    ticket = brought(config) or {}
    if "start" in ticket:
        return f"from another run's {'trained' if ticket.get('final') else 'dense'} weights"
    weights = (config.get("rewind") or {}).get("weights", "rewound")
    if weights == "final":
        return "on from its trained weights"
    at = config.get("rewind_step", "0it")
    if weights == "initial" or str(at) in ("0it", "0", "0ep"):
        return "from its initial weights"
    return f"from its weights after {steps(at)}"


def _rewinding(config: Config) -> str:
    own = config.get("rewind") or {}
    schedule = {
        "continue": "the learning-rate schedule goes on from where these weights were",
        "restart": "the learning-rate schedule starts over",
        "hold": "the learning rate stays at its last value",
    }
    start = str(config.get("rewind_step", "0it")) in ("0it", "0", "0ep")
    told = own.get("schedule", "continue")
    text = schedule["restart" if told == "continue" and start else told]
    if own.get("weights") == "final" and told == "continue" and not start:
        text = f"the learning-rate schedule goes back to {steps(config['rewind_step'])}"
    rest = {k: v for k, v in own.items() if k not in ("name", "weights", "schedule")}
    also = "".join(f", {_spaced(k)} {_value(v)}" for k, v in sorted(rest.items()))
    return f"What survives is trained {_from(config)}, and {text}{also}"


def _endpoint(config: Config) -> str:
    every = steps(config.get("eval_every", "100it"))
    if config.get("endpoint", "early_stop") == "final":
        return "Test accuracy is read at the end of training"
    return (
        "Test accuracy is read at early stop, where validation loss is lowest "
        f"(looked at every {every})"
    )


def _with_options(component: Config) -> str:
    options = {k: v for k, v in component.items() if k != "name"}
    text = ", ".join(f"{_spaced(k)} {_value(v)}" for k, v in sorted(options.items()))
    return f"{spoken(component)} ({text})" if text else spoken(component)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        if "name" in value:
            return _with_options(value)
        return "{" + ", ".join(f"{k}: {_value(v)}" for k, v in sorted(value.items())) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _spaced(key: str) -> str:
    return key.replace("_", " ")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
