"""The process of ``lth.sink.uplink``, seen from the training's side."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from lth.sink import uplink


class LinkError(Exception):
    """W&B's process failed or gave no answer in time; the message says what it said."""


class Link:
    """Sends messages and collects answers. ``root``: the store; W&B's files go to root/wandb."""

    def __init__(self, root: Path) -> None:
        try:
            (root / "wandb").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LinkError(f"{root / 'wandb'}: {error.strerror}") from None
        self._answers: Queue[dict[str, Any] | None] = Queue()
        self.problems: list[str] = []
        self._process = subprocess.Popen(
            # Not the current folder on the path: a file there may be called wandb.py.
            [sys.executable, "-P", "-m", uplink.__name__],
            env=_environment(root),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            # Ctrl-C is for the training; this process is told how it ended.
            start_new_session=True,
        )
        threading.Thread(target=self._listen, daemon=True).start()

    def send(self, message: Mapping[str, Any]) -> None:
        """LinkError where the process has ended."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except (OSError, ValueError):
            raise LinkError(self.reason()) from None

    def ask(self, message: Mapping[str, Any], answer: str, seconds: float) -> dict[str, Any]:
        """Send, and wait for the answer that has the key ``answer``."""
        self.send(message)
        try:
            while (got := self._answers.get(timeout=seconds)) is not None:
                if answer in got:
                    return got
        except Empty:
            raise LinkError(f"no answer in {seconds:.0f} s") from None
        raise LinkError(self.reason())

    def end(self) -> list[dict[str, Any]]:
        """Close the connection; the answers that were left."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except OSError:
            # It ended before it had read everything; why is among its answers.
            self.problems.append(f"its process ended with code {self._process.wait()}")
        answers = []
        while (got := self._answers.get()) is not None:
            answers.append(got)
        self._process.wait()
        return answers

    def kill(self) -> None:
        """End the process now; wandb-core ends when it is gone."""
        self._process.kill()
        self._process.wait()

    def reason(self) -> str:
        """What went wrong first."""
        return self.problems[0] if self.problems else "its process ended"

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer = json.loads(line)
            if "problem" in answer:
                self.problems.append(answer["problem"])
            else:
                self._answers.put(answer)
        self._answers.put(None)


def _environment(root: Path) -> dict[str, str]:
    """W&B's own folders in the store (what is staged must outlive the run), unless set."""
    own = str((root / "wandb").absolute())
    path = [_package(), *filter(None, [os.environ.get("PYTHONPATH")])]
    # One service a process life: none that another process has left in the environment.
    inherited = {k: v for k, v in os.environ.items() if k != "WANDB_SERVICE"}
    return {
        "WANDB_DATA_DIR": f"{own}/.data",
        "WANDB_CACHE_DIR": f"{own}/.cache",
        **inherited,
        "PYTHONPATH": os.pathsep.join(path),
    }


def _package() -> str:
    """The folder that holds the package lth: the child is given it, wherever it was found."""
    return str(Path(uplink.__file__).resolve().parents[2])
