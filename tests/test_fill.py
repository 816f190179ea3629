"""What pruned weights hold: by hand, at every step, in every stored state, in a search."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from torch import Tensor

from lth import mask as masks
from lth.baseline.sham import Sham
from lth.baseline.shuffled_mask import ShuffledMask
from lth.build import Run, build
from lth.complete import Watch
from lth.conduct import conduct
from lth.config import ConfigError
from lth.engine.auto import Auto
from lth.engine.loop import Loop
from lth.engine.mlp import MLP
from lth.event.checkpoint import Checkpoint, Interval
from lth.event.evaluate import Evaluate
from lth.fill import fill_of, held
from lth.finder.edge_popup import EdgePopup
from lth.finder.gradual import Gradual, PruneGradually
from lth.model.lenet_300_100 import LeNet300100
from lth.paths import conf_dir
from lth.protocol import Moment, Record, Result, Resume
from lth.run import register
from lth.runtime import Runtime
from lth.step import Step
from lth.store.files import FileStore
from lth.stream import generator
from lth.training import Training
from lth.types import TrainState

Make = Callable[..., Any]


class Look:
    """Notes the weights at every step."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []

    def steps(self, training: Training) -> range:
        return range(training.first_step, training.last_step + 1)

    def __call__(self, moment: Moment, record: Record) -> None:
        self.seen.append(dict(moment.state().weights))


def trained(training: Training, *observers: Any, resume: Resume | None = None) -> Result:
    (result,) = Loop().train(
        [training],
        events=lambda t: observers,
        resume=lambda t: resume,
        runtime=Runtime(device="cpu"),
    )
    return result


@pytest.fixture
def half(make_search: Make) -> Training:
    """The dense Training at half its weights, pruned ones as they were at theta_0."""
    dense: Training = make_search().dense(0)
    stream = torch.Generator().manual_seed(0)
    mask = {n: torch.rand(m.shape, generator=stream) < 0.5 for n, m in dense.mask.items()}
    return dense.replace(mask=mask, fill={n: dense.start.weights[n] for n in mask})


def test_the_rules_by_hand() -> None:
    initial = {"fc": torch.tensor([1.0, -2.0, 3.0, 0.5])}
    final = {"fc": torch.tensor([0.5, 2.5, -3.0, -0.4])}
    mask = {"fc": torch.tensor([True, True, False, False])}
    fills = {
        rule: fill_of(rule, mask, initial, lambda: final)
        for rule in ("zero", "initial", "by_movement")
    }
    assert fills["zero"] is None
    assert fills["initial"] is not None and fills["by_movement"] is not None
    assert fills["initial"]["fc"].tolist() == [1.0, -2.0, 3.0, 0.5]
    # Magnitudes fell from 1 to 0.5 and from 0.5 to 0.4; that of 3 stayed, that of -2 grew.
    assert fills["by_movement"]["fc"].tolist() == [0.0, -2.0, 3.0, 0.0]
    assert held(fills["by_movement"], mask)["fc"].tolist() == [0.0, 0.0, 3.0, 0.0]
    assert held(fills["initial"], {"fc": torch.ones(4, dtype=torch.bool)}) == {}


def test_pruned_weights_hold_it_at_every_step(half: Training) -> None:
    look = Look()
    result = trained(half, look)
    assert len(look.seen) == 15
    assert half.fill is not None
    for weights in [half.start.weights, *look.seen, result.end.weights]:
        for name, kept in half.mask.items():
            assert torch.equal(weights[name][~kept], half.fill[name][~kept])
    for name, kept in half.mask.items():
        assert not torch.equal(result.end.weights[name][kept], half.fill[name][kept])


def test_it_trains_as_plain_torch_does(half: Training) -> None:
    """Survivors are parameters, the others constants; decay and momentum touch survivors only."""
    task, steps = half.task, 4
    rate = half.learning_rate
    net = half.model(input_shape=task.input_shape, num_classes=task.num_classes)
    net.load_state_dict({**half.start.weights, **half.start.buffers})
    plain = dict(net.named_parameters())
    frozen = {n: p.detach().clone() for n, p in plain.items()}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    order = torch.randperm(len(task.train), generator=generator(*half.streams["order"], "epoch", 0))
    for step in range(steps):
        x, y = task.train.gather(order[step * 16 : (step + 1) * 16])
        optimizer.param_groups[0]["lr"] = 0.1 * rate(step)
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        for name, kept in half.mask.items():
            assert plain[name].grad is not None
            plain[name].grad[~kept] = 0
        optimizer.step()
        for name, kept in half.mask.items():
            plain[name].data[~kept] = frozen[name][~kept]
    result = trained(half.replace(last_step=steps))
    for name, value in result.end.weights.items():
        torch.testing.assert_close(value, plain[name].detach(), rtol=1e-6, atol=1e-7)


def test_only_what_pruned_weights_hold_is_in_the_id(half: Training) -> None:
    assert half.fill is not None
    plain = half.replace(fill=None)
    zeros = half.replace(fill={n: torch.zeros_like(f) for n, f in half.fill.items()})
    full = {n: torch.ones_like(m) for n, m in half.mask.items()}
    survivors = {n: torch.where(half.mask[n], f + 1, f) for n, f in half.fill.items()}
    assert "fill" not in plain.spec and "fill" in half.spec
    assert zeros.id == plain.id != half.id
    assert half.replace(fill=survivors).id == half.id
    assert half.replace(mask=full).id == plain.replace(mask=full, start=half.start).id
    one = {"fc.weight": half.fill["fc.weight"]}
    assert len({half.replace(fill=one).id, half.id, plain.id}) == 3


def test_it_is_in_every_stored_state_and_comes_back_by_replay(
    half: Training, make_workshop: Make
) -> None:
    workshop = make_workshop()
    (stored,) = workshop.complete([half], Watch(keep=frozenset({3}), keep_early_stop=True))
    (stored,) = workshop.complete([half], Watch(keep=frozenset({7})))
    assert half.fill is not None
    for when in ("start", "3", "7", "early_stop", "end"):
        for name, kept in half.mask.items():
            values = stored.state(when).weights[name]
            assert torch.equal(values[~kept], half.fill[name][~kept])
    assert torch.equal(stored.ticket().start.weights["fc.weight"], half.start.weights["fc.weight"])
    look = Look()
    trained(half, look)
    for step in (3, 7):
        assert torch.equal(
            stored.state(step).weights["conv2.weight"], look.seen[step]["conv2.weight"]
        )
    thinned = workshop.store.thin(stored)
    assert "fill.safetensors" in thinned.dropped
    (again,) = workshop.complete([half], Watch(tensors=True))
    assert again.done["digests"] == stored.done["digests"]
    assert torch.equal(
        again.state("end").weights["conv2.weight"], stored.state("end").weights["conv2.weight"]
    )


def test_it_resumes_bit_for_bit(half: Training) -> None:
    first: list[Resume] = []
    checkpoint = Checkpoint(
        interval=Interval(step=Step(iterations=6)),
        save=lambda t, resume: first.append(copy.deepcopy(resume)),
    )
    whole = trained(half, Evaluate(), checkpoint)
    again = trained(half, Evaluate(), resume=first[0])
    for name in whole.end.weights:
        assert torch.equal(whole.end.weights[name], again.end.weights[name])


def test_mlp_refuses_it_and_auto_takes_the_loop(make_search: Make) -> None:
    dense: Training = make_search(model=LeNet300100).dense(0)
    mask = {n: torch.zeros_like(m) for n, m in dense.mask.items()}
    filled = dense.replace(mask=mask, fill={n: dense.start.weights[n] for n in mask})
    cpu = Runtime(device="cpu")
    assert Auto().choose(dense, cpu)[1].startswith("mlp")
    assert Auto().choose(filled, cpu)[1] == "loop (mlp holds pruned weights at zero)"
    with pytest.raises(
        ValueError, match="got mlp, which holds pruned weights at zero, allowed: auto, lo"
    ):
        list(MLP().train([filled], events=lambda t: [], resume=lambda t: None, runtime=cpu))


def test_faults_name_it(half: Training) -> None:
    with pytest.raises(ValueError, match=r"fill: got fc.bias \(3,\), allowed: conv1.weight"):
        half.replace(fill={"fc.bias": torch.zeros(3)})
    event = PruneGradually(
        keep=3,
        every=Step(iterations=2),
        begin=0,
        until=1,
        allocation=None,
        layers={},  # type: ignore[arg-type]
    )
    with pytest.raises(ValueError, match="fill: got values, allowed: none where events"):
        half.replace(events=(event,))


# In a search


@pytest.mark.parametrize("rule", ["initial", "by_movement"])
def test_tickets_and_their_controls_hold_it(
    rule: str, make_search: Make, make_workshop: Make
) -> None:
    search = make_search(
        levels=2, fill=rule, baselines={"shuffled_mask": ShuffledMask(), "sham": Sham()}
    )
    workshop = make_workshop()
    (root,), first, second = search.run(workshop)
    plain = make_search(levels=2)
    plain_workshop = make_workshop()
    (usual,), (usual_first,), _ = plain.run(plain_workshop)
    assert root.training.id == usual.training.id
    theta, end = search.theta_0(0).weights, root.stored.state("end").weights
    rows = {r.variant: r for r in first}
    for name, kept in rows["ticket"].training.mask.items():
        assert torch.equal(kept, usual_first.training.mask[name])
        expected = theta[name].clone()
        if rule == "by_movement":
            expected[end[name].abs() < theta[name].abs()] = 0
            assert 0 < int((expected[~kept] == 0).sum()) < int((~kept).sum())
        for variant in ("ticket", "shuffled_mask"):
            row = rows[variant]
            own = row.training.mask[name]
            for when in ("start", "end"):
                values = row.stored.state(when).weights[name]
                assert torch.equal(values[~own], expected[~own])
    assert rows["sham"].training.filled is None
    # What was pruned before still holds what it held.
    one, two = rows["ticket"], next(r for r in second if r.variant == "ticket")
    for name, kept in one.training.mask.items():
        gone, later = ~kept, two.stored.state("end").weights[name]
        assert torch.equal(later[gone], one.stored.state("end").weights[name][gone])


def test_a_finder_trains_without_it(make_search: Make, make_workshop: Make) -> None:
    for finder in (EdgePopup(), Gradual(every="2it")):
        search = make_search(levels=1, fill="initial", finder=finder)
        _, rows = search.run(make_workshop())
        found, ticket = rows
        assert found.training.filled is None and ticket.training.filled is not None


def test_zero_is_what_it_was(make_search: Make, make_workshop: Make) -> None:
    ids = []
    for options in ({}, {"fill": "zero"}):
        _, (ticket,) = make_search(levels=1, **options).run(make_workshop())
        ids.append(ticket.training.id)
    assert ids[0] == ids[1]


def test_every_optimizer_leaves_it(half: Training) -> None:
    for optimizer in (
        functools.partial(torch.optim.AdamW, lr=0.1, weight_decay=0.5),
        functools.partial(torch.optim.RMSprop, lr=0.1),
    ):
        end = trained(half.replace(optimizer=optimizer, last_step=3)).end
        assert half.fill is not None
        for name, kept in half.mask.items():
            assert torch.equal(end.weights[name][~kept], half.fill[name][~kept])


def test_masks_apply_it() -> None:
    state = TrainState(
        step=0, weights={"a": torch.ones(3), "b": torch.ones(2)}, buffers={}, optimizer=None
    )
    mask = {"a": torch.tensor([True, False, False]), "b": torch.tensor([False, True])}
    filled = masks.apply_state(state, mask, {"a": torch.tensor([7.0, 8.0, 9.0])})
    assert filled.weights["a"].tolist() == [1.0, 8.0, 9.0]
    assert filled.weights["b"].tolist() == [0.0, 1.0]


# On the command line


def built(*overrides: str) -> Run:
    register()
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        return build(compose("run", overrides=["device=cpu", *overrides]))


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        (["fill=frozen"], "fill: got 'frozen', allowed: zero, initial, by_movement"),
        (
            ["fill=initial", "score_steps=2"],
            "fill: got 'initial', allowed: zero (with score_steps above 1)",
        ),
        (
            ["fill=by_movement", "finder=rigl"],
            "fill: got 'by_movement', allowed: zero, initial (with this finder)",
        ),
    ],
)
def test_faults_of_the_key(overrides: list[str], fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        built(*overrides)
    assert caught.value.faults == [fault]


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("fill=initial", "holds pruned weights at zero"),
        ("finder=edge_popup", "trains Linear-ReLU networks, not FrozenNetwork"),
    ],
)
def test_a_named_mlp_is_refused_before_anything_is_written(
    override: str, reason: str, tmp_path: Path
) -> None:
    root = tmp_path / "results"
    run = built("engine=mlp", "dataset=synthetic", "sink=[]", f"store.root={root}", override)
    with pytest.raises(ConfigError, match=f"engine: got mlp, which {reason}, allowed: auto, loop"):
        conduct(run, None, report=False)
    assert not root.exists()


def test_a_run_with_it_repeats_from_the_store(tmp_path: Path) -> None:
    settings = ["dataset=synthetic", "seeds=[0]", "levels=2", "train_steps=10it", "sink=[]"]
    settings += ["eval_every=5it", "baseline=[]", f"store.root={tmp_path}", "fill=by_movement"]
    settings += ["store.keep_tensors=masks"]
    first = conduct(built(*settings), None, report=False)
    ids = set(FileStore(tmp_path).ids())
    assert conduct(built(*settings), None, report=False) == first
    assert set(FileStore(tmp_path).ids()) == ids
