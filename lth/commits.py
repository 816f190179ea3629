"""Storing in the background: results are committed by one thread while the next are trained."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from types import TracebackType
from typing import TypeVar

from lth.store.stored import Stored

T = TypeVar("T")


class Commits:
    """A queue of commits, carried out in the order in which they were asked for.

    After one that fails nothing more is committed; its error is raised by the
    next call, whichever that is. Leaving the block waits for all of them. No
    thread is started where nothing is committed.
    """

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._pending: deque[tuple[Future[Stored], Callable[[Stored], None]]] = deque()
        self._failed: BaseException | None = None

    def __enter__(self) -> Commits:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=True)
        if error is None:
            self._collect(everything=True)

    def add(self, commit: Callable[[], Stored], then: Callable[[Stored], None]) -> None:
        """Queue a commit; ``then`` is called with its result by the thread that calls ``add``."""
        self._collect(everything=False)
        self._pending.append((self._submit(lambda: self._attempt(commit)), then))

    def release(self, locks: ExitStack) -> None:
        """Close ``locks`` when all that is queued has been committed (or has failed)."""
        if self._pending:
            self._submit(locks.close)
        else:
            locks.close()

    def finish(self) -> None:
        """Wait for all that is queued, and raise the error of what failed."""
        self._collect(everything=True)

    def wait(self) -> None:
        """Wait for all that is queued, whatever becomes of it; nothing is raised."""
        wait([future for future, _ in self._pending])

    def _attempt(self, commit: Callable[[], Stored]) -> Stored:
        if self._failed is not None:
            raise self._failed
        try:
            return commit()
        except BaseException as error:
            self._failed = error
            raise

    def _submit(self, job: Callable[[], T]) -> Future[T]:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        return self._thread.submit(job)

    def _collect(self, *, everything: bool) -> None:
        while self._pending and (everything or self._pending[0][0].done()):
            future, then = self._pending.popleft()
            then(future.result())
