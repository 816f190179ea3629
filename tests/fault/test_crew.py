"""Workers: further processes of one run, which do its work, change no number and die with it."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from lth.crew import crew
from lth.paths import conf_dir
from lth.run import register
from lth.store.files import FileStore

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = [
    "dataset=synthetic",
    "seeds=[0,1]",
    "levels=2",
    "train_steps=40it",
    "eval_every=20it",
    "device=cpu",
    "sink=[console]",
]


def config(root: Path, *more: str) -> dict[str, Any]:
    register()
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        composed = compose("run", overrides=[*SETTINGS, f"store.root={root}", *more])
    return OmegaConf.to_container(composed, resolve=True)  # type: ignore[return-value]


def digests(root: Path) -> dict[str, Any]:
    store = FileStore(root)
    return {i: store.get(i).done["digests"] for i in store.ids()}  # type: ignore[union-attr]


def wait_for(what: Any, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.05)


def test_workers_do_the_whole_run_by_themselves(tmp_path: Path) -> None:
    said: list[str] = []
    with crew(config(tmp_path / "crew"), 2, said.append):
        wait_for(lambda: len(list((tmp_path / "crew").glob("training/*/*/done.json"))) == 14)
    command = [sys.executable, "-m", "lth.run", *SETTINGS, f"store.root={tmp_path / 'alone'}"]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    assert digests(tmp_path / "crew") == digests(tmp_path / "alone")
    assert said == []


def test_a_worker_that_fails_is_told_of(tmp_path: Path) -> None:
    said: list[str] = []
    broken = config(tmp_path) | {"levels": -1}
    with crew(broken, 1, said.append):
        assert multiprocessing.active_children()
        wait_for(lambda: not multiprocessing.active_children())
    assert said == ["1 of 1 workers failed; the run was finished without them"]


def test_workers_die_with_a_killed_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lth.run", *SETTINGS, "workers=2", "train_steps=100000it"]
    process = subprocess.Popen(
        [*command, f"store.root={tmp_path}"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    # The first process and its worker hold the locks of a Training each.
    wait_for(lambda: len(list(tmp_path.glob("training/*/*/.lock"))) == 2)
    workers = _children(process.pid)
    assert workers
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not any(_alive(pid) for pid in workers), 20.0)


def _children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            _, _, rest = path.read_text().rpartition(")")
        except OSError:
            continue
        state, parent = rest.split()[:2]
        if int(parent) == pid and state != "Z":
            found.append(int(path.parent.name))
    return found


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
