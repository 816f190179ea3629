"""Sensitivity criteria against short formulas of their own, on literal and tiny networks."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

from lth import mask as masks
from lth.allocation.global_top import GlobalTop
from lth.allocation.lamp import Lamp, lamp
from lth.allocation.proportional import ErdosRenyi
from lth.complete import Workshop
from lth.counts import share
from lth.criterion.fisher import Fisher
from lth.criterion.grasp import GraSP
from lth.criterion.magnitude import magnitude
from lth.criterion.obd import OBD
from lth.criterion.snip import SNIP
from lth.criterion.synflow import SynFlow
from lth.criterion.taylor import Taylor
from lth.criterion.zhou import Zhou
from lth.prune import CriterionError
from lth.stream import generator
from lth.types import TrainState

STREAM = functools.partial(generator, "test")


class Net(nn.Sequential):
    """4 inputs, 5 and 3 units, with biases."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


@pytest.fixture
def setting() -> Any:
    """A net, its state, a mask of all weights, forward and three batches of six."""
    torch.manual_seed(0)
    net = Net()
    state = TrainState(
        step=0, weights={n: p.detach().clone() for n, p in net.named_parameters()}, buffers={}
    )
    data = [(torch.randn(6, 4), torch.arange(6) % 3) for _ in range(3)]

    def forward(state: TrainState, x: Tensor, *, train: bool = True) -> Tensor:
        return torch.func.functional_call(net.train(train), dict(state.weights), (x,))

    mask = {n: torch.ones_like(w, dtype=torch.bool) for n, w in state.weights.items() if w.ndim > 1}
    return SimpleNamespace(
        net=net,
        state=state,
        mask=mask,
        data=data,
        history=SimpleNamespace(scored=state, initial=state),
        options={"forward": forward, "batches": lambda: iter(data)},
    )


def score(criterion: Any, s: Any) -> Any:
    return criterion(s.history, s.mask, generator=STREAM(), **s.options)


def gradients(s: Any, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    s.net.zero_grad()
    F.cross_entropy(s.net(x), y).backward()
    return {n: p.grad.clone() for n, p in s.net.named_parameters()}


def test_snip(setting: Any) -> None:
    one, all_three = score(SNIP(), setting), score(SNIP(num_batches=None), setting)
    parts = [gradients(setting, x, y) for x, y in setting.data]
    for name in setting.mask:
        w = setting.state.weights[name]
        assert torch.allclose(one[name], (w * parts[0][name]).abs())
        mean = torch.stack([p[name] for p in parts]).mean(0)
        assert torch.allclose(all_three[name], (w * mean).abs(), atol=1e-7)


def test_taylor_and_fisher_average_over_examples(setting: Any) -> None:
    taylor, fisher = score(Taylor(num_batches=2), setting), score(Fisher(num_batches=2), setting)
    x = torch.cat([setting.data[0][0], setting.data[1][0]])
    y = torch.cat([setting.data[0][1], setting.data[1][1]])
    each = [gradients(setting, x[i : i + 1], y[i : i + 1]) for i in range(12)]
    for name in setting.mask:
        w = setting.state.weights[name]
        g = torch.stack([e[name] for e in each])
        assert torch.allclose(taylor[name], (w * g).square().mean(0), atol=1e-8)
        assert torch.allclose(fisher[name], g.square().mean(0) * w.square() / 2, atol=1e-8)
        # Not the square of the mean gradient.
        assert not torch.allclose(fisher[name], g.mean(0).square() * w.square() / 2, atol=1e-8)


def test_the_true_fisher_draws_its_labels(setting: Any) -> None:
    true, again = score(Fisher(labels="model"), setting), score(Fisher(labels="model"), setting)
    data = score(Fisher(), setting)
    for name in setting.mask:
        assert torch.equal(true[name], again[name])
        assert not torch.allclose(true[name], data[name])


def test_obd_is_exact_where_the_hessian_is_diagonal() -> None:
    # Two classes, logits (w x, 0), one weight per input and one live input per example:
    # d2L/dw2 = p (1 - p) x^2, and no mixed derivatives.
    w = torch.tensor([[0.5, -1.0, 2.0]])
    x = torch.diag(torch.tensor([1.0, 2.0, 3.0]))
    state = TrainState(step=0, weights={"w": w}, buffers={})

    def forward(state: TrainState, x: Tensor, *, train: bool = True) -> Tensor:
        z = x @ state.weights["w"].t()
        return torch.cat([z, torch.zeros_like(z)], 1)

    scores = OBD(num_batches=1, samples=1)(
        SimpleNamespace(scored=state),  # type: ignore[arg-type]
        {"w": torch.ones(1, 3, dtype=torch.bool)},
        forward=forward,
        batches=lambda: iter([(x, torch.tensor([0, 1, 0]))]),
        generator=STREAM(),
    )
    p = torch.sigmoid(w[0] * x.diag())
    wanted = p * (1 - p) * x.diag().square() / 3 * w[0].square() / 2
    assert torch.allclose(scores["w"][0], wanted, atol=1e-7)


def test_grasp(setting: Any) -> None:
    scores = score(GraSP(per_class=2, temperature=3.0), setting)
    x = torch.cat([setting.data[0][0]])
    y = torch.cat([setting.data[0][1]])
    names = list(setting.mask)

    def loss(*ws: Tensor) -> Tensor:
        weights = {**setting.state.weights, **dict(zip(names, ws, strict=True))}
        logits = torch.func.functional_call(setting.net, weights, (x,)) / 3.0
        return F.cross_entropy(logits, y)

    ws = tuple(setting.state.weights[n].clone().requires_grad_() for n in names)
    g = torch.autograd.grad(loss(*ws), ws)
    _, hg = torch.autograd.functional.hvp(loss, ws, g)
    for name, w, product in zip(names, ws, hg, strict=True):
        assert torch.allclose(scores[name], w * product, atol=1e-6)


def test_grasp_follows_the_gradient_of_what_is_left(setting: Any) -> None:
    """Pruned weights do not train: the flow is that of ``f(mask * w)``, not of the whole."""
    stream = torch.Generator().manual_seed(1)
    mask = {n: torch.rand(m.shape, generator=stream) < 0.5 for n, m in setting.mask.items()}
    state = masks.apply_state(setting.state, mask)
    setting.mask, setting.history = mask, SimpleNamespace(scored=state)
    scores = score(GraSP(per_class=2, temperature=3.0), setting)
    (x, y), names = setting.data[0], list(mask)

    def loss(*ws: Tensor) -> Tensor:
        left = {n: w * mask[n] for n, w in zip(names, ws, strict=True)}
        logits = torch.func.functional_call(setting.net, {**state.weights, **left}, (x,))
        return F.cross_entropy(logits / 3.0, y)

    ws = tuple(state.weights[n].clone().requires_grad_() for n in names)
    g = torch.autograd.grad(loss(*ws), ws)
    assert all(bool((own[~mask[n]] == 0).all()) for n, own in zip(names, g, strict=True))
    _, hg = torch.autograd.functional.hvp(loss, ws, g)
    for name, w, product in zip(names, ws, hg, strict=True):
        assert torch.allclose(scores[name][mask[name]], (w * product)[mask[name]], atol=1e-7)


def test_grasp_says_where_a_class_is_too_small(setting: Any) -> None:
    with pytest.raises(ValueError, match="per_class: got 9, allowed: at most 6 .class 0."):
        score(GraSP(per_class=9), setting)


def test_synflow_conserves_flow_layer_by_layer(setting: Any) -> None:
    scores = score(SynFlow(), setting)
    assert all(s.dtype == torch.float64 for s in scores.values())
    # R = 1^T |W2| |W1| 1, so every layer's scores add up to R.
    w1, w2 = (setting.state.weights[n].double().abs() for n in setting.mask)
    flow = float((w2 @ w1 @ torch.ones(4, dtype=torch.float64)).sum())
    for s in scores.values():
        assert float(s.sum()) == pytest.approx(flow, rel=1e-5)
    # By hand: |w1_ij| * (sum_k |w2_ki|) * 1.
    assert torch.allclose(scores["0.weight"], w1 * w2.sum(0)[:, None])
    assert torch.allclose(scores["2.weight"], w2 * w1.sum(1)[None, :])


W_I = torch.tensor([1.0, -2.0, 3.0, -0.5])
W_F = torch.tensor([2.0, 1.0, 2.5, -4.0])


def zhou(criterion: Zhou, initial: dict[str, Tensor], final: dict[str, Tensor]) -> Any:
    """The scores of layers of these weights, none of which is pruned."""
    history: Any = SimpleNamespace(
        initial=SimpleNamespace(weights=initial), scored=SimpleNamespace(weights=final)
    )
    nothing: dict[str, Any] = {"forward": None, "batches": None, "generator": None}
    return criterion(history, masks.full(initial, initial), **nothing)


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        ("large_final", [2.0, 1.0, 2.5, 4.0]),
        ("small_final", [-2.0, -1.0, -2.5, -4.0]),
        ("large_init", [1.0, 2.0, 3.0, 0.5]),
        ("small_init", [-1.0, -2.0, -3.0, -0.5]),
        ("magnitude_increase", [1.0, -1.0, -0.5, 3.5]),
        ("movement", [1.0, 3.0, 0.5, 3.5]),
        # a = mean|w_i| / mean|w_f| = 1.625 / 2.375
        ("large_init_large_final", [1.0, 0.6842105, 1.7105263, 0.5]),
        ("small_init_small_final", [-1.368421, -2.0, -3.0, -2.7368422]),
    ],
)
def test_the_rules_of_zhou(rule: str, wanted: list[float]) -> None:
    everything = torch.ones(4, dtype=torch.bool)
    assert Zhou(rule=rule).score(W_I, W_F, everything).tolist() == pytest.approx(wanted)
    signed = zhou(Zhou(rule=rule, same_sign=True), {"w": W_I}, {"w": W_F})["w"]
    # Only the second weight changed its sign: it comes last, the others keep their order.
    assert int(signed.argmin()) == 1
    rest = [0, 2, 3]
    assert signed[rest].tolist() == pytest.approx([wanted[i] for i in rest])


@pytest.mark.parametrize(
    ("rule", "order"),
    [
        ("large_final", [("b", 0), ("a", 2), ("a", 0), ("b", 1), ("b", 2), ("a", 1)]),
        ("small_final", [("a", 0), ("a", 2), ("b", 0), ("a", 1), ("b", 2), ("b", 1)]),
    ],
)
def test_weights_that_changed_their_sign_come_last_of_all_layers(
    rule: str, order: list[tuple[str, int]]
) -> None:
    """Whatever the layers' scales: first all that kept it, then the others, each by the rule."""
    initial = {"a": torch.tensor([0.1, -0.2, 0.3]), "b": torch.tensor([5.0, -4.0, 3.0])}
    final = {"a": torch.tensor([0.1, 0.3, 0.2]), "b": torch.tensor([5.0, 4.0, -3.0])}
    scores = zhou(Zhou(rule=rule, same_sign=True), initial, final)
    ranked = sorted(order, key=lambda place: -float(scores[place[0]][place[1]]))
    assert ranked == order
    # Not even two that differ in their last bit become equal.
    close = {"a": torch.tensor([0.5, torch.nextafter(torch.tensor(0.5), torch.tensor(1.0))])}
    scores = zhou(Zhou(rule="large_final", same_sign=True), {"a": -close["a"]}, close)
    assert float(scores["a"][1]) > float(scores["a"][0])


def test_magnitude_is_what_torch_prunes(setting: Any) -> None:
    scores = score(magnitude, setting)
    count = masks.size(setting.mask)
    own = GlobalTop()(scores, setting.mask, layers={}, rate=0.4, times=1, keep=None)
    pairs = [(setting.net[0], "weight"), (setting.net[2], "weight")]
    prune.global_unstructured(pairs, prune.L1Unstructured, amount=round(0.4 * count))
    for (module, _), kept in zip(pairs, own.values(), strict=True):
        assert torch.equal(module.weight_mask.bool(), kept)


# Allocations


def test_lamp_worked_by_hand() -> None:
    scores = torch.tensor([[1.0, 2.0], [3.0, 9.0]])
    kept = torch.tensor([[True, True], [True, False]])
    wanted = torch.tensor([[1 / 14, 4 / 13], [9 / 9, -torch.inf]], dtype=torch.float64)
    assert torch.allclose(lamp(scores, kept), wanted)


def test_lamp_keeps_the_best_of_every_layer() -> None:
    scores = {"small": torch.full((4,), 1e-6) * torch.arange(1, 5), "big": torch.arange(1.0, 9.0)}
    everything = masks.full(scores, scores)
    chosen = Lamp()(scores, everything, layers={}, rate=0.5, times=1, keep=2)
    assert chosen["small"].tolist() == [False, False, False, True]
    assert chosen["big"].tolist() == [False] * 7 + [True]


def test_erk_worked_by_hand_and_solved_again_where_it_saturates() -> None:
    shapes = {"conv": (4, 2, 3, 3), "fc": (10, 20)}
    assert ErdosRenyi().raw(shapes["conv"]) == pytest.approx(12 / 72)
    assert ErdosRenyi(kernel=False).raw(shapes["conv"]) == pytest.approx(6 / 8)
    assert ErdosRenyi().raw(shapes["fc"]) == pytest.approx(30 / 200)
    stream = torch.Generator().manual_seed(0)
    scores = {n: torch.rand(s, generator=stream) for n, s in shapes.items()}
    everything = masks.full(scores, scores)
    # 12 eps + 30 eps = 84: eps = 2, so 24 and 60.
    chosen = ErdosRenyi()(scores, everything, layers={}, rate=0.1, times=1, keep=84)
    assert [int(m.sum()) for m in chosen.values()] == [24, 60]
    # 252 of 272: the conv would get 72 at eps = 6, exactly full; at 260 it stays so.
    chosen = ErdosRenyi()(scores, everything, layers={}, rate=0.1, times=1, keep=260)
    assert [int(m.sum()) for m in chosen.values()] == [72, 188]


def test_shares_are_exact() -> None:
    assert share({"a": 1.0, "b": 1.0, "c": 1.0}, {"a": 9, "b": 9, "c": 9}, 10) == {
        "a": 4,
        "b": 3,
        "c": 3,
    }
    assert share({"a": 5.0, "b": 1.0}, {"a": 2, "b": 9}, 8) == {"a": 2, "b": 6}
    with pytest.raises(ValueError, match="cannot keep 12 of 11"):
        share({"a": 1.0, "b": 1.0}, {"a": 2, "b": 9}, 12)


def test_a_floor_protects_every_layer() -> None:
    scores = {"a": torch.tensor([0.1, 0.2, 0.3]), "b": torch.arange(1.0, 6.0)}
    everything = masks.full(scores, scores)
    options: dict[str, Any] = {"layers": {}, "rate": 0.5, "times": 1, "keep": 4}
    assert GlobalTop()(scores, everything, **options)["a"].sum() == 0
    chosen = GlobalTop(floor=2)(scores, everything, **options)
    assert chosen["a"].tolist() == [False, True, True] and int(chosen["b"].sum()) == 2
    with pytest.raises(ValueError, match="floor: got 3, allowed: at most 4 weights in all"):
        GlobalTop(floor=3)(scores, everything, **options)


# In a search


def test_pruning_at_initialisation_costs_no_updates(make_search: Any, make_workshop: Any) -> None:
    search = make_search(
        levels=1, criterion=SNIP(), prune_at=0, rewind_step=0, allocation=GlobalTop()
    )
    _, (row,) = search.run(make_workshop())
    assert row.search_steps == 0
    history = search.history(row.stored, row.stored, 0)
    assert history.parent_start.weights.keys() == search.theta_0(0).weights.keys()
    later = make_search(levels=1, prune_at=8)
    _, (at_eight,) = later.run(make_workshop())
    assert at_eight.search_steps == 8


@pytest.mark.parametrize("steps", [1, 5])
def test_scoring_in_steps_spends_the_same_budget(
    steps: int, make_search: Any, make_workshop: Any
) -> None:
    options = {"levels": 1, "criterion": SynFlow(), "prune_at": 0, "rewind_step": 0}
    allocation = GlobalTop()
    workshop: Workshop = make_workshop()
    search = make_search(**options, allocation=allocation, score_steps=steps)
    _, (row,) = search.run(workshop)
    whole = masks.size(row.training.mask)
    assert masks.remaining(row.training.mask) == whole - round(0.4 * whole)


def test_steps_score_what_is_left(make_search: Any, make_workshop: Any) -> None:
    seen: list[tuple[int, int]] = []

    def watch(history: Any, mask: Any, **_: Any) -> Any:
        weights = history.scored.weights
        seen.append((masks.remaining(mask), sum(int((weights[n] != 0).sum()) for n in mask)))
        return {n: weights[n].abs() for n in mask}

    search = make_search(levels=1, allocation=GlobalTop(), criterion=watch, score_steps=3)
    _, (row,) = search.run(make_workshop())
    # 270 weights to 162 in three steps: 270 (162/270)^(i/3).
    # The first tells the budget, the second is step 1 of 3.
    assert seen == [(270, 270), (270, 270), (228, 228), (192, 192)]
    assert masks.remaining(row.training.mask) == 162
    # By magnitude, steps change nothing.
    plain = make_search(levels=1, allocation=GlobalTop())
    _, (once,) = plain.run(make_workshop())
    for name, kept in once.training.mask.items():
        assert torch.equal(kept, row.training.mask[name])


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (
            lambda: SNIP(num_batches=0),
            "num_batches: got 0, allowed: 1 or more, or null for an epoch",
        ),
        (lambda: Fisher(labels="mine"), "labels: got 'mine', allowed: data, model"),
        (lambda: OBD(samples=0), "samples: got 0, allowed: 1 or more"),
        (lambda: GraSP(temperature=0), "temperature: got 0, allowed: above 0"),
        (lambda: Zhou(rule="x"), "rule: got 'x', allowed: large_final, small_final"),
        (lambda: GlobalTop(floor=-1), "floor: got -1, allowed: 0 or more weights"),
    ],
)
def test_faults_name_the_option(make: Any, fault: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (the text is checked)
        make()
    assert fault in str(caught.value)


def test_a_criterion_that_cannot_score_is_named(make_search: Any, make_workshop: Any) -> None:
    search = make_search(levels=1, criterion=GraSP(per_class=99))
    with pytest.raises(CriterionError, match="criterion.per_class: got 99, allowed: at most"):
        list(search.run(make_workshop()))
