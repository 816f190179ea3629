"""Less on disk when a run has ended: which states may go, and that nobody else needs them."""

from __future__ import annotations

from collections.abc import Iterable

from lth.store.files import FileStore
from lth.store.run_folder import Reference, RunFolder, runs

TICKET = "ticket"


def thin(store: FileStore, folder: RunFolder, keep_tensors: str) -> int:
    """Remove the states that ``keep_tensors`` does not keep; gives how many Trainings lost some.

    Those of level 0 always stay: everything starts from them. What another run
    refers to stays as it is, and so does what some process is at work on.
    """
    if keep_tensors == "all":
        return 0
    own = list(folder.references())
    others = (f for f in runs(folder.store_root) if f.run_id != folder.run_id)
    kept = {r.training for f in others for r in f.references()} | _kept(own, keep_tensors)
    count = 0
    for training_id in sorted({r.training for r in own} - kept):
        with store.lock(training_id, wait=False) as mine:
            stored = store.peek(training_id) if mine else None
            if stored is not None:
                count += store.thin(stored) is not stored
    return count


def _kept(own: Iterable[Reference], keep_tensors: str) -> set[str]:
    own = list(own)
    last: dict[int, int] = {}
    for r in own:
        if r.variant == TICKET:
            last[r.seed] = max(last.get(r.seed, 0), r.level)
    return {
        r.training
        for r in own
        if r.level == 0
        or (keep_tensors == "last" and r.variant == TICKET and r.level == last[r.seed])
    }
