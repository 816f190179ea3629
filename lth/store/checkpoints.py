"""An unfinished training as bytes: state, mask and record in one safetensors file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from lth.protocol import Record, Resume
from lth.spec import tensor_digest
from lth.store import tensors
from lth.training import Training
from lth.types import Weights


def encode(training: Training, resume: Resume, conditions: Mapping[str, Any]) -> bytes:
    """Everything needed to go on bit for bit, with a digest of it all."""
    record = resume.record
    flat = dict(tensors.flatten("state", resume.state))
    flat |= {f"mask/{n}": m for n, m in resume.mask.items()}
    flat |= {f"prediction/{n}": t for n, t in record.predictions.items()}
    flat |= {f"memory/{n}": t for n, t in record.memory.items()}
    for name, state in record.states.items():
        flat |= tensors.flatten(f"kept/{name}", state)
    meta = {
        "training": training.id,
        "conditions": dict(conditions),
        "step": resume.state.step,
        "pending_loss": list(resume.pending_loss),
        "metrics": record.metrics,
        "probes": record.probes,
        "early_stop_step": record.early_stop_step,
        "seconds": record.seconds,
        "kept": {n: [s.step, s.optimizer is not None] for n, s in record.states.items()},
    }
    return tensors.encode(flat, {**meta, "digest": _digest(flat, meta)})


def decode(data: bytes, training: Training, conditions: Mapping[str, Any]) -> Resume | None:
    """The checkpoint, or None where it was made under other conditions.

    ValueError where the bytes are damaged or another Training's.
    """
    flat, meta = tensors.decode(data)
    if meta.pop("digest", None) != _digest(flat, meta):
        raise ValueError("does not match its digest")
    if meta["training"] != training.id:
        raise ValueError("belongs to another Training")
    if meta["conditions"] != dict(conditions):
        return None

    def part(prefix: str) -> dict[str, Any]:
        return {k.removeprefix(prefix): t for k, t in flat.items() if k.startswith(prefix)}

    record = Record(
        metrics=meta["metrics"],
        states={
            n: tensors.unflatten(f"kept/{n}", flat, step=step, optimizer=slots)
            for n, (step, slots) in meta["kept"].items()
        },
        predictions=part("prediction/"),
        memory=part("memory/"),
        probes=meta["probes"],
        early_stop_step=meta["early_stop_step"],
        seconds=meta["seconds"],
    )
    return Resume(
        state=tensors.unflatten("state", flat, step=meta["step"], optimizer=True),
        mask=part("mask/"),
        record=record,
        pending_loss=(meta["pending_loss"][0], meta["pending_loss"][1]),
    )


def _digest(flat: Weights, meta: Mapping[str, Any]) -> str:
    """Over tensors and metadata; losses may be NaN, which canonical JSON does not have."""
    text = tensor_digest(flat) + json.dumps(meta, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
