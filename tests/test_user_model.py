"""Networks that users bring: each runs as it should, or one line says why it cannot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from lth.build import Run, build
from lth.complete import Workshop
from lth.conduct import conduct
from lth.config import ConfigError
from lth.event.checkpoint import Interval
from lth.paths import conf_dir
from lth.prepare import prepare, read_data
from lth.protocol import Moment, Record
from lth.run import register
from lth.store.files import FileStore
from lth.store.memory import MemoryStore
from lth.store.run_folder import RunFolder
from lth.training import Training

Shape = tuple[int, int, int]


class Dropouts(nn.Module):
    """Dropout as a module and as a function."""

    def __init__(self, input_shape: Shape, num_classes: int, p: float = 0.3) -> None:
        super().__init__()
        self.conv, self.drop = nn.Conv2d(input_shape[0], 8, 3, padding=1), nn.Dropout2d(p)
        self.fc = nn.Linear(8 * math.prod(input_shape[1:]), num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(self.drop(self.conv(x).relu()).flatten(1), 0.2, training=self.training)
        return self.fc(x)  # type: ignore[no-any-return]


class Separable(nn.Module):
    """A depthwise and a pointwise convolution."""

    def __init__(self, input_shape: Shape, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(input_shape[0], 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.pointwise, self.norm = nn.Conv2d(8, 12, 1, bias=False), nn.BatchNorm2d(12)
        self.fc = nn.Linear(12, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pointwise(self.depthwise(self.stem(x).relu()).relu())
        return self.fc(self.norm(x).relu().mean((2, 3)))  # type: ignore[no-any-return]


class Shared(nn.Module):
    """Two layers with one weight and two biases."""

    def __init__(self, input_shape: Shape, num_classes: int) -> None:
        super().__init__()
        self.first, self.a = nn.Linear(math.prod(input_shape), 16), nn.Linear(16, 16)
        self.b, self.fc = nn.Linear(16, 16), nn.Linear(16, num_classes)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.flatten(1)).relu()
        return self.fc(self.b(self.a(x).relu()).relu())  # type: ignore[no-any-return]


class Buffers(nn.Module):
    """Buffers that are written in place, put in another's place, not saved, or none."""

    def __init__(self, input_shape: Shape, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("shift", torch.arange(4.0), persistent=False)
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("nothing", None)
        self.conv = nn.Conv2d(input_shape[0], 4, 3, padding=1)
        self.fc = nn.Linear(4 * math.prod(input_shape[1:]), num_classes)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen += len(x)
            self.mean = 0.9 * self.mean + 0.1 * x.mean()
        x = self.conv(x - self.mean).relu() + self.shift.view(1, 4, 1, 1)
        return self.fc(x.flatten(1))  # type: ignore[no-any-return]


class Materialised(nn.Module):
    """Lazy layers that have seen an example when the network is made."""

    def __init__(self, input_shape: Shape, num_classes: int) -> None:
        super().__init__()
        self.conv, self.fc = nn.LazyConv2d(4, 3), nn.LazyLinear(num_classes)
        self(torch.zeros(1, *input_shape))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).relu().flatten(1))  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """Rows as words for torch's transformer: attention, LayerNorm, dropout, a bare parameter."""

    def __init__(self, input_shape: Shape, num_classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.embed = nn.Linear(input_shape[0] * input_shape[2], 8)
        self.place = nn.Parameter(torch.zeros(1, input_shape[1], 8))
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=dropout, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        words = x.transpose(1, 2).flatten(2)
        return self.fc(self.encoder(self.embed(words) + self.place).mean(1))  # type: ignore[no-any-return]


class Words(nn.Module):
    """Brightness as words of an embedding, read by a GRU."""

    def __init__(self, input_shape: Shape, num_classes: int) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Embedding(9, 4), nn.GRU(4, 8, batch_first=True)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        words = (2 * x + 4).long().clamp(0, 8).flatten(1)
        return self.fc(self.rnn(self.embed(words))[0][:, -1])  # type: ignore[no-any-return]


MODELS = [Dropouts, Separable, Shared, Buffers, Materialised, Encoder, Words]
TINY = ["dataset=digits", "seeds=[0]", "levels=2", "train_steps=8it", "eval_every=4it"]
TINY += ["rewind_step=2it", "sink=[]", "engine=loop"]


def prepared(model: type[nn.Module], root: Path, *options: str) -> Run:
    register()
    node = f"model={{_target_:{__name__}.{model.__name__}}}"
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return build(compose("run", overrides=[*TINY, node, *options, f"store.root={root}"]))


class KillAt:
    """Ends the process, as far as this one goes."""

    def steps(self, training: Training) -> Sequence[int]:
        return [6] if training.first_step < 6 < training.last_step else []

    def __call__(self, moment: Moment, record: Record) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize("model", MODELS)
def test_a_user_s_network_is_searched(model: type[nn.Module], tmp_path: Path) -> None:
    run = prepared(model, tmp_path)
    folder = RunFolder(tmp_path, conduct(run, None, report=False))
    store, found = FileStore(tmp_path), {}
    for reference in folder.references():
        stored = store.get(reference.training)
        assert stored is not None and stored.status == "done"
        found[reference.variant, reference.level] = stored
        for when in ("start", "end"):
            values = stored.state(when).weights
            for name, kept in stored.mask().items():
                assert not bool(values[name][~kept].any()), (name, when)
        moved = stored.state("end").weights, stored.state("start").weights
        assert all(not torch.equal(moved[0][n], moved[1][n]) for n in stored.mask())
    for level in (1, 2):
        ticket, reinit = found["ticket", level], found["random_reinit", level]
        shuffled = found["shuffled_mask", level]
        assert ticket.done["density"] < found["ticket", level - 1].done["density"]
        for name, kept in ticket.mask().items():
            assert torch.equal(reinit.mask()[name], kept)
            assert int(shuffled.mask()[name].sum()) == int(kept.sum())
        theta = found["ticket", 0].state("2") if "2" in found["ticket", 0].kept() else None
        assert theta is not None
        start = ticket.state("start")
        for name, value in theta.weights.items():
            kept = ticket.mask().get(name, torch.ones_like(value, dtype=torch.bool))
            assert torch.equal(start.weights[name], value * kept)
        assert all(torch.equal(b, theta.buffers[n]) for n, b in start.buffers.items())
    # Killed at step 6 of every training and gone on with, all of it ends with the same bits.
    search, memory = prepare(run, read_data(run)), MemoryStore()
    once: set[str] = set()

    def kill(training: Training) -> list[Any]:
        return [] if training.id in once or once.add(training.id) else [KillAt()]  # type: ignore[func-returns-value]

    workshop = Workshop(
        store=memory,
        observe=kill,
        checkpoint=Interval.parse("1it"),
        runtime=run.runtime,
        say=lambda text: None,
    )
    for _ in range(20):
        try:
            list(search.run(workshop))
            break
        except KeyboardInterrupt:
            continue
    for training_id in store.ids():
        again = memory.get(training_id)
        assert again is not None
        assert again.done["digests"] == store.get(training_id).done["digests"]  # type: ignore[union-attr]


@pytest.mark.parametrize("criterion", ["grasp", "obd", "snip", "fisher", "synflow", "taylor"])
def test_attention_can_be_scored(criterion: str, tmp_path: Path) -> None:
    """Also where a gradient is differentiated again, which its fast kernels cannot."""
    options = [f"criterion={criterion}", "+model.dropout=0.0", "levels=1", "baseline=[]"]
    run = prepared(Encoder, tmp_path, *options, "dataset.subsample=0.3", "batch_size=32")
    folder = RunFolder(tmp_path, conduct(run, None, report=False))
    densities = [r.density for r in folder.references()]
    assert densities[0] == 1 and densities[1] < 0.9


def test_the_units_of_a_depthwise_convolution_are_those_it_reads(tmp_path: Path) -> None:
    pytest.importorskip("torch_pruning")
    run = prepared(Separable, tmp_path, "granularity=units", "levels=1", "baseline=[]")
    folder = RunFolder(tmp_path, conduct(run, None, report=False))
    (mask,) = (
        FileStore(tmp_path).get(r.training).mask()  # type: ignore[union-attr]
        for r in folder.references()
        if r.level == 1
    )
    alive = mask["stem.weight"].flatten(1).any(1)
    assert 0 < int(alive.sum()) < 8
    assert torch.equal(mask["depthwise.weight"].flatten(1).any(1), alive)
    assert torch.equal(mask["depthwise.bias"], alive)
    assert torch.equal(mask["pointwise.weight"].any(0).flatten(), alive)


# What cannot be run is refused


class Unmade(Materialised):
    """Lazy layers without a shape."""

    def __init__(self, input_shape: Shape, num_classes: int) -> None:
        nn.Module.__init__(self)
        self.conv, self.fc = nn.LazyConv2d(4, 3), nn.LazyLinear(num_classes)


class Late(nn.Module):
    """Makes its output layer in the first forward pass."""

    def __init__(self, input_shape: Shape, num_classes: int) -> None:
        super().__init__()
        self.num_classes, self.conv = num_classes, nn.Conv2d(input_shape[0], 4, 3)
        self.fc: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).relu().flatten(1)
        if self.fc is None:
            self.fc = nn.Linear(x.shape[1], self.num_classes)
        return self.fc(x)  # type: ignore[no-any-return]


class Normed(Dropouts):
    """Its convolution's weight is computed."""

    def __init__(self, input_shape: Shape, num_classes: int) -> None:
        super().__init__(input_shape, num_classes)
        nn.utils.parametrizations.weight_norm(self.conv)


class Still(Dropouts):
    """Its convolution is not trained."""

    def __init__(self, input_shape: Shape, num_classes: int) -> None:
        super().__init__(input_shape, num_classes)
        self.conv.requires_grad_(False)


class Unused(Dropouts):
    """A layer that nothing reads."""

    def __init__(self, input_shape: Shape, num_classes: int) -> None:
        super().__init__(input_shape, num_classes)
        self.extra = nn.Linear(2, 2)


class Two(Dropouts):
    """Gives more than scores."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x), x


class Asserting(Dropouts):
    """Fails in its own way."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == 3, "three colours"
        return x


class NoLayer(nn.Module):
    """Nothing to prune."""

    def __init__(self, input_shape: Shape, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)


@pytest.mark.parametrize(
    ("model", "options", "line"),
    [
        (Unmade, (), "model.conv: got a lazy layer without a shape, allowed: one that has it"),
        (Late, (), "that makes fc.bias, fc.weight in its first forward pass, allowed: all in __in"),
        (Normed, (), "model.conv: got a weight that is computed from other parameters, allowed:"),
        (Still, (), "whose conv.weight gets no gradient, allowed: Linear and Conv layers that"),
        (Unused, (), "whose extra.weight gets no gradient, allowed: Linear and Conv layers that"),
        (Two, (), "with outputs of shape tuple for two images, allowed: [2, 10] (one score per"),
        (Asserting, (), "allowed: a network that takes images of shape [1, 8, 8] (three colours)"),
        (NoLayer, (), "allowed: another (NoLayer has no Linear or Conv layer to prune)"),
        (Shared, ("finder=edge_popup",), "finder: got edge_popup, allowed: one that trains weig"),
        (Shared, ("finder=supermask",), "finder: got supermask, allowed: one that trains weights"),
        (Shared, ("granularity=units",), "units cannot be followed through weights that several"),
        (Encoder, ("granularity=units",), "units cannot be followed through encoder.layers.0.nor"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(
    model: type[nn.Module], options: Sequence[str], line: str, tmp_path: Path
) -> None:
    if "granularity=units" in options:
        pytest.importorskip("torch_pruning")
    run = prepared(model, tmp_path, *options)
    with pytest.raises(ConfigError) as caught:
        prepare(run, read_data(run))
    (fault,) = caught.value.faults
    assert line in fault and "\n" not in fault
