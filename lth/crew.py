"""More processes for one run: each walks the same levels, and the store's locks divide the work."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any


@contextmanager
def crew(config: Mapping[str, Any], count: int, say: Callable[[str], None]) -> Iterator[None]:
    """Have ``count`` further processes at work on the run that ``config`` means.

    They train and store and say nothing. The numbers do not depend on how many
    there are: every Training is computed by one process alone. One that fails
    is told of, and the run goes on without it.
    """
    # Spawned, because a forked process must not touch an accelerator or OpenMP's threads.
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_work, args=(dict(config),)) for _ in range(count)]
    for worker in workers:
        worker.start()
    try:
        yield
    finally:
        # Whatever is still running here is not needed any more; the store survives a kill.
        failed = [w for w in workers if w.exitcode]
        for worker in workers:
            worker.terminate()
            worker.join()
        if failed:
            say(f"{len(failed)} of {count} workers failed; the run was finished without them")


def _work(config: Mapping[str, Any]) -> None:
    # Here, because a spawned process imports this module first of all.
    from lth.build import build
    from lth.complete import Workshop
    from lth.event.checkpoint import Interval
    from lth.prepare import prepare, read_data
    from lth.tuned import tuned_run

    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        run = build(config)
        search = prepare(run, read_data(run))
        workshop = Workshop(
            store=run.store,
            engine=tuned_run(run, search).engine,
            runtime=run.runtime,
            checkpoint=Interval.parse(run.root.checkpoint_every),
            say=lambda text: None,
            processes=run.root.workers,
        )
        for _ in search.run(workshop):
            pass
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        # The first process meets the same fault, if it is one of the run, and explains it.
        print(f"worker: {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)


def _end_with_parent() -> None:
    """A worker whose run was killed must not go on by itself."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
