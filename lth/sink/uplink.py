"""``python -m lth.sink.uplink``: a process that speaks to W&B, one JSON message a line on stdin.

W&B has a process of its own, so that whatever happens to it (a dead server, a full disk, a defect)
cannot hold up or end a training: the sink kills this process when its time is over. It imports
nothing of the laboratory, so that it starts in half a second.

A message is ``{"do": "connect" | "open" | "axis" | "log" | "table" | "image" | "summary" |
"artifact" | "finish", "run": id, ...}``. Answers on stdout, one JSON object a line:
``{"connected": mode}``, ``{"opened": id, "mode", "folder", "url"}``, ``{"finished": id}`` and
``{"problem": text}``.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

INIT_SECONDS = 15.0
"""How long a server is waited for, once; W&B itself adds a few seconds to it."""

OFFLINE = "written offline instead"

Message = Mapping[str, Any]


class Uplink:
    """The W&B runs of one process life, open side by side."""

    def __init__(self, answers: IO[str]) -> None:
        import wandb

        self._wandb = wandb
        self._answers = answers
        self._runs: dict[str, Any] = {}
        self._unreachable = False
        self._lock = threading.Lock()

    def answer(self, **facts: Any) -> None:
        with self._lock:
            print(json.dumps(facts), file=self._answers, flush=True)

    def serve(self, lines: Iterable[str]) -> None:
        """Do what every line says; where they end early, the training was killed."""
        for line in lines:
            message = json.loads(line)
            do = message.pop("do")
            if do == "connect":
                self._connect(message["mode"])
            elif do == "finish":
                self._finish(message["code"])
            else:
                getattr(self, f"_{do}")(message.pop("run"), message)
        self._finish(1)

    def _connect(self, mode: str) -> None:
        """``auto`` is online where a key is configured."""
        if mode == "auto":
            try:
                mode = "online" if self._wandb.login(prompt=False) else "offline"
            except self._wandb.Error as error:
                mode = "offline"
                self.answer(problem=f"{_line(error)}; {OFFLINE}")
        self.answer(connected=mode)

    def _open(self, run: str, message: Message) -> None:
        mode = "offline" if self._unreachable else message["mode"]
        try:
            self._runs[run] = self._init(run, message, mode)
        except (self._wandb.Error, TimeoutError, OSError) as error:
            if mode == "offline" or self._runs:
                raise
            self._unreachable = True
            # Its service would take the id for one in use.
            self._wandb.teardown()
            self.answer(problem=f"{_line(error)}; {OFFLINE}")
            self._runs[run] = self._init(run, message, "offline")
        opened = self._runs[run]
        offline = bool(opened.offline)
        self.answer(
            opened=run,
            mode="offline" if offline else "online",
            folder=str(Path(opened.dir).parent),
            url=None if offline else opened.url,
        )

    def _init(self, run: str, message: Message, mode: Any) -> Any:
        # W&B writes into the settings it is given, so every run has its own.
        settings = self._wandb.Settings(
            console="off",
            disable_code=True,
            disable_git=True,
            finish_timeout=message["finish_seconds"],
            finish_timeout_raises=True,
            init_timeout=INIT_SECONDS,
            quiet=True,
            reinit="create_new",
            silent=True,
            symlink=False,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
            # Rows reach the disk this often: a killed process loses no more.
            x_transaction_log_flush_interval=2.0,
        )
        return self._wandb.init(id=run, mode=mode, settings=settings, **message["init"])

    def _axis(self, run: str, message: Message) -> None:
        self._runs[run].define_metric(message["name"], step_metric=message["against"])

    def _log(self, run: str, message: Message) -> None:
        for row in message["rows"]:
            self._runs[run].log(row)

    def _table(self, run: str, message: Message) -> None:
        table = self._wandb.Table(
            columns=message["columns"], data=message["rows"], allow_mixed_types=True
        )
        self._runs[run].log({message["name"]: table})

    def _image(self, run: str, message: Message) -> None:
        self._runs[run].log({message["name"]: self._wandb.Image(message["path"])})

    def _summary(self, run: str, message: Message) -> None:
        self._runs[run].summary.update(message["values"])

    def _artifact(self, run: str, message: Message) -> None:
        artifact = self._wandb.Artifact(
            message["name"], type=message["type"], metadata=message["metadata"]
        )
        # What the store has removed meanwhile is left out; the metadata names it.
        files = {name: path for name, path in message["files"].items() if Path(path).exists()}
        for name, path in files.items():
            # Immutable: W&B reads our own file when it uploads, and makes no copy of it.
            artifact.add_file(path, name=name, policy="immutable", skip_cache=True)
        self._runs[run].log_artifact(artifact)

    def _finish(self, code: int) -> None:
        """All at the same time: each may wait for the same dead server."""
        threads = [
            threading.Thread(target=self._finish_one, args=(name, run, code), daemon=True)
            for name, run in self._runs.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._runs.clear()

    def _finish_one(self, name: str, run: Any, code: int) -> None:
        try:
            run.finish(exit_code=code)
        except Exception as error:
            self.answer(problem=_line(error))
        else:
            self.answer(finished=name)


def _line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0].rstrip('.')}" if text else type(error).__name__


def main() -> int:
    """Serve stdin to its end; 0 done, 1 where W&B failed."""
    # W&B writes to stdout now and then; ours is for answers alone.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        Uplink(answers).serve(sys.stdin)
    except Exception as error:
        # Whatever W&B raises is one line for the sink, which goes on without it.
        print(json.dumps({"problem": _line(error)}), file=answers, flush=True)
        # Without W&B's own hooks at exit, which would wait for the runs it could not serve.
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
