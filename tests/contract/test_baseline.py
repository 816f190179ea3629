"""Every shipped control, found by its YAML, keeps the contract of ``lth.protocol.Baseline``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

import lth.baseline
from lth.protocol import Baseline
from lth.rewind.matrix import Matrix
from lth.spec import canonical, spec, state_digest, tensor_digest
from lth.training import Training

CONF = Path(__file__).parents[2] / "conf" / "baseline"
FILES = sorted(CONF.rglob("*.yaml"))
REWINDS = {"theta_k": Matrix(), "low rate": Matrix(schedule="hold")}
DENSE = {"sham", "dense_total", "small_dense"}
COVERED: set[tuple[str, str]] = set()


def digests(training: Training) -> tuple[str, ...]:
    """The contents now, not the cached id."""
    start = training.start
    return (tensor_digest(training.mask), state_digest(start), canonical(dict(training.streams)))


@pytest.mark.parametrize("rewind", REWINDS)
@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_a_control_keeps_the_contract(
    file: Path, rewind: str, make_search: Any, make_workshop: Any
) -> None:
    config = instantiate(OmegaConf.load(file), _convert_="all")
    assert list(config) == [file.stem], "a baseline's YAML has one top-level key, its own name"
    baseline = config[file.stem]
    assert isinstance(baseline, Baseline)
    assert baseline.draws >= 1 and isinstance(baseline.searched, bool)
    spec(baseline)  # it can be named in the store

    search = make_search(levels=1, rewind=REWINDS[rewind], baselines={file.stem: baseline})
    workshop = make_workshop()
    (dense,), (ticket, *controls) = search.run(workshop)
    assert len(controls) == baseline.draws
    assert len({r.training.id for r in controls}) == baseline.draws
    own = ticket.training
    for row in controls:
        control = row.training
        assert row.stored.status == "done"
        expected = 1.0 if file.stem in DENSE else ticket.stored.done["density"]
        assert row.stored.done["density"] == expected
        assert row.search_steps == (14 if baseline.searched else 0)

        changed = [
            tensor_digest(control.mask) != tensor_digest(own.mask),
            state_digest(control.start) != state_digest(own.start),
            control.streams != own.streams,
            (control.first_step, control.last_step, control.learning_rate)
            != (own.first_step, own.last_step, own.learning_rate),
        ]
        assert any(changed) and control.id != own.id
        assert file.stem == "small_dense" or control.model == own.model
        for name in ("optimizer", "eval_every", "grad_clip", "precision", "events"):
            assert getattr(control, name) == getattr(own, name)
        assert control.task is own.task

    # Made again, it is the same; nothing that it was given has changed.
    history = search.history(dense.stored, dense.stored, 0)
    states = [history.initial, history.rewound, history.dense_end]
    before = [digests(own), *map(state_digest, states), stored_bytes(workshop)]
    again = search.control(
        baseline,
        own,
        history,
        seed=0,
        level=1,
        draw=0,
        train=lambda training, watch=None: workshop.complete([training], watch)[0],
        parent=dense.training,
        cost=14,
    )
    assert again.id == controls[0].training.id
    assert digests(again) == digests(controls[0].training)
    assert [digests(own), *map(state_digest, states), stored_bytes(workshop)] == before
    COVERED.add((file.stem, rewind))


def stored_bytes(workshop: Any) -> dict[str, dict[str, bytes]]:
    return {i: dict(workshop.store.folder(i)) for i in workshop.store.ids()}


def test_every_file_and_every_module_is_covered(request: pytest.FixtureRequest) -> None:
    """A YAML without a module, a module without a YAML, or a file that no test ran."""
    targets = {
        node["_target_"].rpartition(".")[0]
        for file in FILES
        for node in OmegaConf.to_container(OmegaConf.load(file)).values()  # type: ignore[union-attr]
    }
    folder = Path(lth.baseline.__file__).parent
    modules = {f"lth.baseline.{f.stem}" for f in folder.glob("*.py") if f.stem != "__init__"}
    assert targets == modules
    assert len(FILES) == len(list(CONF.rglob("*.yaml"))) > 0
    ran = [i for i in request.session.items if "test_a_control_keeps_the_contract" in i.name]
    if len(ran) == len(FILES) * len(REWINDS) and not hasattr(request.config, "workerinput"):
        assert len(COVERED) == len(FILES) * len(REWINDS)
