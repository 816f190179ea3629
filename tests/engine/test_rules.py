"""Update rules without torch.optim's classes: the same bits, the same slots, no compiler loaded."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lth.engine.rules import Rule, rule
from lth.optimizer import base_rate, build_optimizer, load_slots_, set_rate, slots

CASES: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": True}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}),
    ("SGD", {"lr": 0.1, "maximize": True}),
    ("Adam", {}),
    ("Adam", {"lr": 0.01, "betas": (0.5, 0.9), "weight_decay": 5e-4, "amsgrad": True}),
    ("Adam", {"decoupled_weight_decay": True, "weight_decay": 0.1}),
    ("AdamW", {"lr": 0.01, "eps": 1e-3}),
    ("AdamW", {"maximize": True}),
]


class Vector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.linspace(-2, 2, 131))


def gradient(step: int, values: Tensor) -> Tensor:
    return torch.randn(values.shape, generator=torch.Generator().manual_seed(step))


@pytest.mark.parametrize(("name", "given"), CASES, ids=[f"{n} {o}" for n, o in CASES])
def test_the_bits_and_slots_are_those_of_torch(name: str, given: dict[str, Any]) -> None:
    optimizer = functools.partial(getattr(torch.optim, name), **given)
    ours, theirs = Vector(), Vector()
    own, reference = rule(optimizer, ours), build_optimizer(optimizer, theirs)
    assert isinstance(own, Rule)
    for step in range(6):
        if step == 3:  # slots go out and into a fresh one, as on resume
            saved = slots(own, ours)
            own = rule(optimizer, ours)
            load_slots_(own, ours, saved)
        for one, module in ((own, ours), (reference, theirs)):
            set_rate(one, base_rate(optimizer) * (1 - step / 10))
            module.values.grad = gradient(step, module.values)
            one.step()
        assert torch.equal(ours.values, theirs.values), step
        found, known = slots(own, ours), slots(reference, theirs)
        assert found.keys() == known.keys()
        assert all(torch.equal(found[k], known[k]) for k in known)


@pytest.mark.parametrize(
    ("name", "given"),
    [("RMSprop", {}), ("Adam", {"foreach": True}), ("SGD", {"lr": 1.0, "fused": False})],
)
def test_other_kinds_and_forms_are_torchs_own(name: str, given: dict[str, Any]) -> None:
    optimizer = functools.partial(getattr(torch.optim, name), **given)
    assert type(rule(optimizer, Vector())) is getattr(torch.optim, name)


def test_a_run_of_perceptrons_does_not_load_torchs_compiler(tmp_path: Path) -> None:
    """It takes a second in every process."""
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\n"
        "from lth.run import main\n"
        "sys.argv[1:] = 'seeds=[0] levels=1 train_steps=20it eval_every=10it report=false "
        "sink=[console]'.split()\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0, end.code\n"
        "assert 'torch' in sys.modules\n"
        "print('loaded', *(m for m in ('torch._dynamo', 'torch._inductor') if m in sys.modules))\n"
    )
    root = Path(__file__).resolve().parents[2]
    found = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.splitlines()[-1].strip() == "loaded"
