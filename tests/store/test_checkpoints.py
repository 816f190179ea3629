"""A checkpoint holds the whole of an unfinished training, and nothing but the right one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lth.protocol import Record, Resume
from lth.spec import state_digest
from lth.store import checkpoints
from lth.store.files import FileStore
from lth.store.stored import DamagedError
from lth.training import Training

CONDITIONS = {"numerics": {"num_threads": 1}, "watch": {"test_curve": False}}


@pytest.fixture
def resume(pruned: Training, result: Any) -> Resume:
    record = Record(
        metrics=[{"step": 5.0, "batch_loss": float("nan"), "val_loss": 0.1 + 0.2}],
        states=dict(result.record.states),
        predictions=dict(result.record.predictions),
        probes={"gradient_norm": [{"step": 5, "layer": "fc.weight", "survivors": 0.3}]},
        early_stop_step=5,
        seconds=1.25,
    )
    return Resume(
        state=result.record.states["7"],
        mask=pruned.mask,
        record=record,
        pending_loss=(float(torch.tensor(0.7)), 2),
    )


def test_everything_comes_back(pruned: Training, resume: Resume) -> None:
    data = checkpoints.encode(pruned, resume, CONDITIONS)
    back = checkpoints.decode(data, pruned, CONDITIONS)
    assert back is not None
    assert back.state.step == resume.state.step
    assert state_digest(back.state) == state_digest(resume.state)
    assert back.pending_loss == resume.pending_loss
    assert all(torch.equal(back.mask[n], m) for n, m in resume.mask.items())
    old, new = resume.record, back.record
    (was,), (row,) = old.metrics, new.metrics
    assert row == pytest.approx(was, rel=0, abs=0, nan_ok=True)
    assert (new.early_stop_step, new.seconds, new.probes) == (5, 1.25, old.probes)
    assert new.states.keys() == old.states.keys()
    for name, state in old.states.items():
        assert new.states[name].step == state.step
        assert state_digest(new.states[name]) == state_digest(state)
    assert new.predictions.keys() == old.predictions.keys()
    assert all(torch.equal(new.predictions[k], v) for k, v in old.predictions.items())


def test_another_trainings_or_conditions_checkpoint_is_not_used(
    pruned: Training, resume: Resume
) -> None:
    data = checkpoints.encode(pruned, resume, CONDITIONS)
    other = {**CONDITIONS, "numerics": {"num_threads": 2}}
    assert checkpoints.decode(data, pruned, other) is None
    with pytest.raises(ValueError):  # noqa: PT011  (the message is the next test's matter)
        checkpoints.decode(data, pruned.replace(last_step=13), CONDITIONS)


def test_a_damaged_checkpoint_is_named_and_removed(
    tmp_path: Any, pruned: Training, resume: Resume
) -> None:
    store = FileStore(tmp_path)
    store.save_checkpoint(pruned, resume, CONDITIONS)
    path = store.folder(pruned.id).path / "checkpoint.safetensors"
    data = path.read_bytes()
    for harmed in (data[:-4], data[:-4] + bytes([data[-4] ^ 1]) + data[-3:], b""):
        path.write_bytes(harmed)
        with pytest.raises(DamagedError, match=r"checkpoint\.safetensors"):
            store.load_checkpoint(pruned, CONDITIONS)
        assert store.load_checkpoint(pruned, CONDITIONS) is None
