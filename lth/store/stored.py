"""One Training as the store keeps it: named files of bytes, committed by ``done.json``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from lth import mask as masks
from lth.protocol import Record, Result
from lth.spec import Json, content_id, state_digest, tensor_digest
from lth.store import tables, tensors
from lth.training import Training
from lth.types import Mask, Ticket, TrainState, Weights

DONE = "done.json"
MASK_START = "mask_start.safetensors"
FILL = "fill.safetensors"


class DamagedError(Exception):
    """A stored file is not what was stored; says which and how."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class DroppedError(KeyError):
    """A state that ``store.keep_tensors`` had removed."""

    def __str__(self) -> str:
        return str(self.args[0])


class Blobs(Protocol):
    """Where the files of one Training lie."""

    def read(self, name: str) -> bytes | None: ...

    def describe(self, name: str) -> str: ...


class Stored:
    """A committed Training. Every read is checked against the digest in ``done.json``."""

    def __init__(self, training_id: str, blobs: Blobs, done: Mapping[str, Any]) -> None:
        self.id = training_id
        self.done = done
        self._blobs = blobs

    def read(self, name: str) -> bytes:
        """The bytes of a file; DamagedError where it is missing or differs."""
        data = self._blobs.read(name)
        if data is None:
            raise DamagedError(self._blobs.describe(name), "missing")
        if hashlib.sha256(data).hexdigest() != self.done["files"][name]:
            raise DamagedError(self._blobs.describe(name), "does not match its SHA-256")
        return data

    def verify(self) -> Stored:
        """Check every file; DamagedError names the first that is damaged."""
        for name in self.done["files"]:
            self.read(name)
        return self

    @property
    def spec(self) -> Json:
        """The canonical spec whose hash is the id."""
        return json.loads(self.read("training.json"))["spec"]

    @property
    def dropped(self) -> list[str]:
        """The files that were removed to save room (``store.keep_tensors``)."""
        return list(self.done.get("dropped", ()))

    @property
    def status(self) -> str:
        """``done`` or ``diverged``."""
        return str(self.done["status"])

    def mask(self, when: str = "end") -> dict[str, Tensor]:
        """The mask at ``start`` or ``end`` (they differ only where the training changed it)."""
        name = "mask.safetensors"
        if when != "end" and MASK_START in self.done["files"]:
            name = MASK_START
        return tensors.decode_mask(self.read(name))

    def weight_mask(self, when: str = "end") -> dict[str, Tensor]:
        """The mask of Linear and Conv weights; that of whole units covers biases and norms too."""
        return masks.prunable(self.mask(when))

    def state(self, when: str | int) -> TrainState:
        """``start``, ``end``, ``early_stop`` or the state kept at a step.

        KeyError where it was not kept, DroppedError where it was removed since.
        """
        name = state_file(str(when))
        if name in self.dropped:
            raise DroppedError(
                f"Training {self.id[:12]} has no state {when!r} any more (store.keep_tensors); "
                "a run that needs it computes it again"
            )
        if name not in self.done["files"]:
            raise KeyError(f"Training {self.id[:12]} keeps no state {when!r}")
        state = tensors.decode_state(self.read(name), self.packing(str(when)))
        network = str(when).isdigit() or when in ("start", "end", "early_stop")
        fill = self.fill() if network else None
        return state if fill is None else masks.apply_state(state, self.mask(), fill)

    def fill(self) -> Weights | None:
        """What pruned weights hold that is not 0, or None; DroppedError where it was removed."""
        if FILL in self.dropped:
            raise DroppedError(
                f"Training {self.id[:12]} has no {FILL} any more (store.keep_tensors); "
                "a run that needs it computes it again"
            )
        return tensors.decode(self.read(FILL))[0] if FILL in self.done["files"] else None

    def packing(self, when: str) -> Mask:
        """The mask whose survivors a state's file holds.

        None for a state between start and end of a Training that changed its
        mask: which mask it had then is not stored.
        """
        if when not in ("start", "end") and MASK_START in self.done["files"]:
            return {}
        return self.mask(when)

    def kept(self) -> set[str]:
        """The names of the kept states: ``early_stop`` and steps."""
        return self._names("keep_", ".safetensors")

    def probes(self) -> set[str]:
        """The names of the probes that recorded something."""
        return self._names("probe_", ".parquet")

    def _names(self, prefix: str, suffix: str) -> set[str]:
        files = (n for n in self.done["files"] if n.startswith(prefix))
        return {n.removeprefix(prefix).removesuffix(suffix) for n in files}

    def ticket(self) -> Ticket:
        """The mask and the start that this Training trained."""
        return Ticket(mask=self.mask("start"), start=self.state("start"))

    def metrics(self) -> list[dict[str, Any]]:
        """One row per evaluation."""
        return tables.decode(self.read("metrics.parquet"))

    def predictions(self) -> dict[str, Any]:
        """Columns ``split when index class loss`` as numpy arrays."""
        return tables.columns(self.read("predictions.parquet"))

    def probe(self, name: str) -> list[dict[str, Any]]:
        """The rows of a probe; KeyError where it did not run."""
        if name not in self.probes():
            raise KeyError(f"Training {self.id[:12]} ran no probe {name!r}")
        return tables.decode(self.read(f"probe_{name}.parquet"))


def files_of(result: Result) -> dict[str, bytes]:
    """Everything that a result stores, but ``done.json``."""
    training, record = result.training, result.record
    spec_text = json.dumps({"id": training.id, "spec": training.spec}, indent=1, sort_keys=True)
    files = {
        "training.json": spec_text.encode(),
        "mask.safetensors": tensors.encode_mask(result.mask),
        "start.safetensors": tensors.encode_state(training.start, training.mask),
        "end.safetensors": tensors.encode_state(result.end, result.mask),
        "metrics.parquet": tables.encode_metrics(record.metrics),
        "predictions.parquet": tables.encode_predictions(record.predictions),
    }
    if training.filled is not None:
        files[FILL] = tensors.encode(training.filled, {})
    own = training.mask
    # Events may change the mask and change it back.
    if training.events or tensor_digest(result.mask) != tensor_digest(training.mask):
        files[MASK_START] = tensors.encode_mask(training.mask)
        own = {}
    for name, state in record.states.items():
        files[state_file(name)] = tensors.encode_state(state, own)
    for name, rows in record.probes.items():
        files[f"probe_{name}.parquet"] = tables.encode_rows(rows)
    return files


def digests_of(result: Result) -> dict[str, str]:
    """The digests of mask, start and end, whatever files they lie in."""
    return {
        "mask": tensor_digest(result.mask),
        "start": state_digest(result.training.start),
        "end": state_digest(masks.apply_state(result.end, result.mask, result.training.filled)),
    }


def digests_of_files(files: Mapping[str, bytes]) -> dict[str, str]:
    """The SHA-256 of each file."""
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def done_of(
    result: Result, files: Mapping[str, bytes], observed: Mapping[str, Any]
) -> dict[str, Any]:
    """What ``done.json`` says of a result; see docs/store.md."""
    training, record = result.training, result.record
    density_mask = {n: m for n, m in masks.prunable(result.mask).items() if n in training.mask}
    return {
        "id": training.id,
        "status": record.status,
        "updates": result.end.step - training.first_step,
        "first_step": training.first_step,
        "last_step": training.last_step,
        "density": masks.density(density_mask),
        "num_classes": training.task.num_classes,
        "layers": {n: {"kept": int(m.sum()), "all": m.numel()} for n, m in density_mask.items()},
        "early_stop": _early_stop(record, training),
        "final": _without_step(record.metrics[-1]),
        "seconds": round(record.seconds, 3),
        "numerics": dict(result.numerics),
        "observed": dict(observed),
        "digests": digests_of(result),
        "files": digests_of_files(files),
    }


def seal(values: Mapping[str, Any]) -> bytes:
    """JSON with a digest of itself under ``seal``, so that damage is noticed."""
    return json.dumps({**values, "seal": _seal(values)}, indent=1, sort_keys=True).encode()


def unseal(data: bytes, path: str) -> dict[str, Any]:
    """The values that were sealed; DamagedError where ``data`` is anything else."""
    try:
        values = json.loads(data)
    except ValueError:
        raise DamagedError(path, "is not JSON") from None
    if not isinstance(values, dict) or values.pop("seal", None) != _seal(values):
        raise DamagedError(path, "does not match its digest")
    return values


def _seal(values: Mapping[str, Any]) -> str:
    return content_id(_finite(values))


def _early_stop(record: Record, training: Training) -> dict[str, Any] | None:
    if record.early_stop_step is None:
        return None
    row = next(m for m in record.metrics if m["step"] == record.early_stop_step)
    return {
        "step": record.early_stop_step,
        "censored": record.early_stop_step == record.metrics[-1]["step"],
        **_without_step(row),
    }


def _without_step(row: Mapping[str, float]) -> dict[str, float | None]:
    return {k: _finite(v) for k, v in row.items() if k not in ("step", "batch_loss")}


def _finite(value: Any) -> Any:
    """JSON has no NaN: what is not finite becomes None."""
    if isinstance(value, float) and (value != value or value in (float("inf"), -float("inf"))):
        return None
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    return value


def state_file(when: str) -> str:
    """The file of the state ``start``, ``end``, ``early_stop`` or ``500``."""
    return f"{when}.safetensors" if when in ("start", "end") else f"keep_{when}.safetensors"
