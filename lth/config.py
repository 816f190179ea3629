"""What can be set, and what a set of settings is called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lth.spec import Json

GROUPS = (
    "dataset",
    "model",
    "init",
    "optimizer",
    "lr",
    "criterion",
    "allocation",
    "schedule",
    "rewind",
    "baseline",
    "engine",
    "event",
    "store",
    "sink",
    "finder",
    "granularity",
)
"""The config groups: folders of conf/ and of the package."""

MANY = ("baseline", "event", "sink")
"""Groups of which any number may be selected; each YAML holds its own name as a key."""

SEMANTIC_GROUPS = GROUPS[:9]
"""Groups that enter the run_id; controls, engine, probes, store and sinks do not."""

OPTIONAL_GROUPS = ("finder", "granularity")
"""Semantic groups that may be left out; they enter the run_id where they are not."""

LEFT_OUT: Mapping[str, Json] = {"granularity": {"name": "Weights"}}
"""What an optional group means where it is left out; chosen by name it is the same run."""

SEMANTIC_KEYS = (
    "train_steps",
    "batch_size",
    "rewind_step",
    "prune_at",
    "score_steps",
    "exclude",
    "order",
    "streams",
    "warmup",
    "eval_every",
    "precision",
    "grad_clip",
    "label_smoothing",
    "fill",
    "distillation",
    "endpoint",
    "verdict_against",
    "verdict_density",
)
"""Root keys that enter the run_id. A verdict's endpoint is one: it is fixed before the run."""


class ConfigError(Exception):
    """The configuration is at fault: one line for each fault, each naming its key."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


@dataclass
class Streams:
    """A seed of its own for single random streams; null takes the run's seed."""

    init: int | None = None
    split: int | None = None
    order: int | None = None
    augment: int | None = None
    module: int | None = None
    control: int | None = None


@dataclass
class Transfer:
    """A ticket of another run as level 1; see docs/transfer.md. ``source``: one, or one a seed.

    With ``combine``: the tickets whose masks are combined, or a list of them for each seed;
    ``start_from`` is the one that gives the values.
    """

    source: Any = None
    combine: str | None = None
    start_from: Any = None
    start: str = "rewound"
    mask: bool = True
    weights: bool = True


@dataclass
class DistillationOptions:
    """Who teaches levels 1 and above: null, ``dense`` or the path of a stored network."""

    teacher: str | None = None
    temperature: float = 4.0
    weight: float = 0.9


@dataclass
class RunConfig:
    """The typed root of a configuration. Steps are ``500it``, ``3ep`` or ``1ep30it``.

    Which settings are what: docs/configuration.md.
    """

    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4])
    levels: int = 1
    train_steps: str = "1000it"
    batch_size: int = 60
    rewind_step: str = "0it"
    prune_at: str = "end"
    score_steps: int = 1
    exclude: list[str] = field(default_factory=list)
    order: str = "per_level"
    streams: Streams = field(default_factory=Streams)
    ticket: Transfer = field(default_factory=Transfer)
    warmup: str = "0it"
    eval_every: str = "100it"
    test_curve: bool = False
    keep: list[str] = field(default_factory=list)
    baseline_levels: Any = "all"
    endpoint: str = "early_stop"
    verdict_against: str = "random_reinit"
    verdict_density: list[float] = field(default_factory=lambda: [0.02, 0.10])
    precision: str = "fp32"
    grad_clip: float | None = None
    label_smoothing: float = 0.0
    fill: str = "zero"
    distillation: DistillationOptions = field(default_factory=DistillationOptions)
    checkpoint_every: str = "60s"
    num_threads: int = 1
    workers: int = 1
    deterministic: bool = False
    device: str = "auto"
    data_dir: str = "data"
    report: bool = True

    dataset: Any = None
    model: Any = None
    init: Any = None
    optimizer: Any = None
    lr: Any = None
    criterion: Any = None
    allocation: Any = None
    schedule: Any = None
    rewind: Any = None
    baseline: Any = field(default_factory=dict)
    engine: Any = None
    event: Any = field(default_factory=dict)
    store: Any = None
    sink: Any = field(default_factory=dict)
    finder: Any = None
    granularity: Any = None


def semantic(
    root: Mapping[str, Any], components: Mapping[str, Json], ticket: Json = None
) -> dict[str, Json]:
    """What the run_id hashes: the semantic components' specs and root keys not at their default.

    ``ticket`` is what was brought in from another run, by its digests.
    """
    default = asdict(RunConfig())
    keys = {k: root[k] for k in SEMANTIC_KEYS if root[k] != default[k]}
    chosen = {
        g: components[g]
        for g in OPTIONAL_GROUPS
        if components.get(g) is not None and components[g] != LEFT_OUT.get(g)
    }
    brought = {} if ticket is None else {"ticket": ticket}
    return {**{g: components[g] for g in SEMANTIC_GROUPS}, **chosen, **brought, **keys}


def run_id(semantic_config: Mapping[str, Json]) -> str:
    """The first 16 hex digits of the SHA-256 of the canonical JSON."""
    # Here, because it takes torch with it, for which --help should not wait.
    from lth.spec import content_id

    return content_id(semantic_config)[:16]
