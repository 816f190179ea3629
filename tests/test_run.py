"""The command: a small run end to end, what it prints and stores, its faults and exit codes."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from analysis.frame import COLUMNS
from lth.cell import slug
from lth.paths import conf_dir
from lth.run import main
from lth.store.run_folder import locate

TINY = [
    "dataset=synthetic",
    "dataset.validation=64",
    "seeds=[0,1]",
    "levels=2",
    "train_steps=30it",
    "eval_every=10it",
    "batch_size=32",
    "verdict_density=[0.2,0.5]",
]
ROOT = Path(__file__).resolve().parent.parent


def command(module: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def table_of(text: str) -> str:
    return text[text.index("Test accuracy in %") : text.index("stored in")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("run")
    result = command("lth.run", *TINY, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return folder, result.stdout


def test_says_what_it_will_do_then_the_table_the_verdict_and_the_paths(
    finished: tuple[Path, str],
) -> None:
    folder, text = finished
    assert "trainings  14 of 30 updates; 0 stored, 14 to do, about" in text
    assert re.search(r"levels +0 to 2 \(density 1 to 0\.3\d*\); seeds 0,1", text)
    rows = table_of(text).splitlines()
    assert [c for c in ("ticket", "random_reinit", "shuffled_mask") if c in rows[1]] == [
        "ticket",
        "random_reinit",
        "shuffled_mask",
    ]
    assert [row.split()[0] for row in rows[2:5]] == ["0", "1", "2"]
    assert "n = 2 seeds" in text
    for line in re.findall(r"(?:stored|tables) in +(\S+)", text):
        assert (folder / line).is_dir()
    assert [p.name for p in folder.iterdir()] == ["results"]


def test_the_same_command_trains_nothing_and_prints_the_same_table(
    finished: tuple[Path, str],
) -> None:
    folder, text = finished
    before = {p: p.stat().st_mtime_ns for p in folder.glob("results/training/*/*/*")}
    again = command("lth.run", *TINY, cwd=folder)
    assert "14 stored, 0 to do" in again.stdout
    assert table_of(again.stdout) == table_of(text)
    assert {p: p.stat().st_mtime_ns for p in folder.glob("results/training/*/*/*")} == before


def test_compare_prints_the_same_from_the_store_and_writes_the_contract(
    finished: tuple[Path, str],
) -> None:
    folder, text = finished
    (run,) = (p.name for p in (folder / "results" / "run").glob("[0-9a-f]*"))
    for name in (f"results/run/{run}", run[:6], "results"):
        result = command("analysis.compare", name, "--csv", "out.csv", cwd=folder)
        assert result.returncode == 0, result.stderr
        assert table_of(text).strip() in result.stdout
    data = pd.read_csv(folder / "out.csv")
    assert list(data.columns) == COLUMNS
    assert len(data) == 14
    assert not data.duplicated(["run_id", "seed", "variant", "draw", "level"]).any()
    assert data["density"].between(0, 1).all()
    (folder / "out.csv").unlink()


def test_compare_names_what_it_cannot_find(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    result = command("analysis.compare", "nothing", cwd=folder)
    assert result.returncode == 2
    assert result.stderr.startswith("RUN: got 'nothing', which no runs match, allowed:")
    assert "Traceback" not in result.stderr


def test_a_damaged_file_is_named_by_compare_and_recomputed_by_run(tmp_path: Path) -> None:
    small = [*TINY, "seeds=[0]", "levels=1", "baseline=[]"]
    command("lth.run", *small, cwd=tmp_path)
    (done,) = (p for p in tmp_path.glob("results/run/*/seed_000/ticket/level_01/done.json"))
    good = done.read_bytes()
    done.write_bytes(good.replace(b'"status": "done"', b'"status": "dune"'))
    compared = command("analysis.compare", "results", cwd=tmp_path)
    assert compared.returncode == 1
    assert "done.json: does not match its digest" in compared.stderr
    mended = command("lth.run", *small, cwd=tmp_path)
    assert mended.returncode == 0
    assert "done.json: does not match its digest; it is recomputed" in mended.stdout

    def lasting(data: bytes) -> dict[str, object]:
        return {k: v for k, v in json.loads(data).items() if k not in ("seconds", "seal")}

    assert lasting(done.read_bytes()) == lasting(good)


FAULTS = [
    ("lrr=3", "lrr: got '3', allowed: seeds, levels"),
    ("levels=abc", "levels: got 'abc', allowed: a whole number"),
    ("levels=-1", "levels: got -1, allowed: 0 or more"),
    ("levels=2.0", "levels: got '2.0', allowed: a whole number"),
    ("seeds=0", "seeds: got '0', allowed: a list such as [0,1]"),
    ("seeds=[0,0]", "seeds: got [0, 0], allowed: a list of different whole numbers"),
    ("model=zz", "model: got 'zz', allowed: conv_2"),
    ("optimizer.lrr=3", "optimizer.lrr: got 3, allowed: lr, betas"),
    ("optimizer.lr=abc", "optimizer.lr: got 'abc', allowed: a number"),
    ("optimizer.lr=-1", "optimizer.lr: got -1, allowed: 0 or more"),
    ("optimizer.lr=inf", "optimizer.lr: got inf, allowed: a number"),
    ("optimizer.betas=[0.9,1]", "optimizer.betas: got [0.9, 1], allowed: 0 <= beta < 1 for both"),
    ("optimizer=sgd optimizer.nesterov=true", "optimizer.nesterov: got True with momentum=0"),
    ("optimizer.differentiable=true", "optimizer.differentiable: got True, allowed: false"),
    ("optimizer.fused=true optimizer.foreach=true", "optimizer.fused: got True with foreach=True"),
    ("optimizer._target_=torch.optim.LBFGS", "allowed: torch.optim.SGD, torch.optim.Adam,"),
    ("schedule.rate=1.5", "schedule.rate: got 1.5, allowed: 0 < rate < 1"),
    ("rewind_step=2000it", "rewind_step: got 2000it, allowed: below 1000it"),
    ("rewind_step=500", "rewind_step: got '500', allowed: a step such as 500it"),
    ("batch_size=5000", "batch_size: got 5000, allowed: 1 to 1077 (the train split)"),
    ("model=vgg_11", "model.input_shape: got"),
    ("exclude=[foo]", "exclude: got 'foo', allowed: a layer type (linear, output)"),
    ("criterion.powr=2", "criterion.powr: got 2, allowed: no options"),
    ("criterion=magnitude,random", "allowed: one value (several make a sweep: -m)"),
    ("precision=fp16", "precision: got 'fp16', allowed: fp32, tf32, bf16"),
    ("precision=tf32 device=cpu", "precision: got 'tf32', which cpu lacks, allowed: fp32, bf16"),
    ("device=foo", "device: got 'foo', allowed: auto, cpu"),
    ("dataset=mnist", "dataset.download=true"),
    ("experiments=zz", "experiments: got 'zz', allowed: conv_2_cifar10"),
    ("keep=[abc]", "keep: got 'abc', allowed: a step such as 500it, 3ep or 1ep30it or early_stop"),
    ("test_curve=3x", "test_curve: got '3x', allowed: true or false"),
    ("baseline_levels=[0.05,99]", "baseline_levels: got 99, allowed: 1 to 7 (levels)"),
    ("schedule=targets", "schedule.densities: got nothing, allowed: a value (it is required)"),
    ("rewind.optimizer=saved", "rewind.optimizer: got 'saved', allowed: fresh"),
    (
        "rewind=finetune rewind.updates=100it rewind_step=100it prune_at=400it",
        "prune_at: got 400it, allowed: 100it to 200it, end or early_stop",
    ),
    (
        "finder=rigl train_steps=100it",
        "finder.every: got 100it, allowed: below 75it (the mask moves until 0.75 of 100 updates)",
    ),
    ("finder=set rewind_step=900it", "finder.every: got 100it, allowed: below 75it"),
    ("baseline=[sham,smart_ratios]", "baseline: got 'smart_ratios', allowed: constant_sign, corr"),
    ("event=[zz]", "event: got 'zz', allowed: dead_units, gradient_norm"),
    ("finder=set baseline=[corrupted_task]", "finder: got set, allowed: null (with baseline"),
    ("baseline=[late_mask_early_weights]", "weights: got 'init' with mask=ticket, allowed: end"),
    ("verdict_against=reinit", "verdict_against: got 'reinit', allowed: random_reinit, shuffled"),
    ("model.input_shape=[1]", "model.input_shape: got [1], allowed: nothing (the run sets it)"),
    ("levels=-1 num_threads=0", "num_threads: got 0, allowed: 1 or more"),
    ("experiments=null", "experiments: got null, allowed: conv_2_cifar10"),
    ("engine=null", "engine: got null, allowed: auto, ddp, graph, loop, mlp, stacked"),
    ("model=3", "model: got 3, allowed: conv_2"),
    ("--cfg job model=3", "model: got 3, allowed: conv_2"),
    ("baseline=null", "baseline: got null, allowed: a list of constant_sign, corrupted_task"),
    (
        "engine=[mlp,loop]",
        "engine: got [mlp,loop], allowed: auto, ddp, graph, loop, mlp, stacked "
        "(one; several make a sweep: -m)",
    ),
    ("criterion=[magnitude,random]", "criterion: got [magnitude,random], allowed: fisher, grasp"),
    ("levels=1 levels=abc", "levels: got 'abc', allowed: a whole number"),
    ("levels=1 levels=1,2", "levels: got '1,2', allowed: one value (several make a sweep: -m)"),
    ("seeds=[a]", "seeds[0]: got [a], allowed: a whole number"),
    ("streams.foo=1", "streams.foo: got '1', allowed: init, split, order"),
    ("+x.y=3", "x: got {'y': 3}, allowed: seeds, levels"),
    ("+streams.foo=1", "streams.foo: got 1, allowed: init, split, order"),
    ("+ticket.foo=1", "ticket.foo: got 1, allowed: source"),
    ("optimizer.lr=nan", "optimizer.lr: got nan, allowed: a number"),
    ("optimizer.betas=[0.9]", "optimizer.betas: got [0.9], allowed: a list of 2: a number"),
    ("grad_clip=inf", "grad_clip: got inf, allowed: null or above 0 and finite"),
    ("model._target_=nosuch.Net", "allowed: an importable class (No module named 'nosuch')"),
    ("model._target_=torch.nn.Nope", "allowed: an importable class (No module named"),
    ("lr=step lr.milestones=[50]", "lr.milestones: got [50], allowed: a list, each a step such"),
    (
        "allocation.rates={conv:x}",
        "allocation.rates: got {'conv': 'x'}, allowed: names with a number each",
    ),
    ("ticket.combine=union", "ticket.combine: got 'union', allowed: null (without ticket.source)"),
    ("seeds=[0", "command line: got 'seeds=[0', allowed: key=value"),
]


@pytest.mark.parametrize(("arguments", "expected"), FAULTS, ids=[a for a, _ in FAULTS])
def test_a_fault_is_one_clear_line_and_writes_nothing(
    arguments: str,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", ["lth", *arguments.split()])
    try:
        code = main()
    except SystemExit as end:
        code = end.code
    complaint = capsys.readouterr().err
    assert code == 2
    assert expected in complaint
    assert all(line.startswith("error: ") for line in complaint.splitlines())
    assert list(tmp_path.iterdir()) == []


def test_faults_come_together(tmp_path: Path) -> None:
    result = command(
        "lth.run", "levels=-1", "batch_size=0", "device=foo", "optimizer.lr=abc", cwd=tmp_path
    )
    assert [line.split(":")[1].strip() for line in result.stderr.splitlines()] == [
        "optimizer.lr",
        "levels",
        "batch_size",
        "device",
    ]


def test_a_store_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = command("lth.run", *TINY, "store.root=file/results", cwd=tmp_path)
    assert result.returncode == 2
    assert "store.root: got 'file/results', allowed: a folder that can be written" in result.stderr


def test_interrupted_it_says_so_and_goes_on_where_it_was(tmp_path: Path) -> None:
    long = [*TINY, "seeds=[0]", "train_steps=200000it", "eval_every=100it", "checkpoint_every=10it"]
    process = subprocess.Popen(
        [sys.executable, "-m", "lth.run", *long],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Whoever runs the tests in the background has them ignore it, and so would the command.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list(tmp_path.glob("results/training/*/*/check*")):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "the same command goes on from there" in errors
    assert "Traceback" not in errors
    assert list(tmp_path.glob("results/training/*/*/checkpoint.safetensors"))


def test_a_full_disk_is_one_line_that_names_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lth.conduct.conduct", full)
    monkeypatch.setattr(sys, "argv", ["lth", "store.root=here"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    assert capsys.readouterr().err == (
        "error: here: No space left on device; what was finished is stored, and the same command "
        "goes on from there\n"
    )


def test_commands_that_are_printed_can_be_typed(tmp_path: Path) -> None:
    small = [*TINY, "seeds=[0]", "levels=0", "baseline=[]", "report=false"]
    done = command(
        "lth.run", *small, "store.root='my results'", "sink.wandb.mode=offline", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "python -m analysis.compare 'my results/run/" in done.stdout
    assert "wandb leet 'my results/wandb'" in done.stdout


def test_a_users_own_classes_need_no_registration(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    own = [
        "model._target_=mine.Net",
        "model.hidden=7",
        "criterion._target_=mine.smallest",
        "allocation._target_=mine.Leave",
        "allocation.left=9",
        "baseline=[]",
        "sink=[console]",
        "report=false",
        "baseline.flipped._target_=mine.Flipped",
        "baseline.flipped.draws=2",
    ]
    result = command("lth.run", *TINY, "seeds=[0]", "levels=1", *own, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "mine.Net" in result.stdout and "mine.smallest" in result.stdout
    (folder,) = (p.parent for p in tmp_path.glob("results/run/*/run.json"))
    dense, ticket, *flipped = (
        locate(folder / "seed_000" / place).stored()
        for place in (
            "ticket/level_00",
            "ticket/level_01",
            "flipped/level_01",
            "flipped/level_01_draw_1",
        )
    )
    for name, kept in ticket.mask("start").items():
        size = dense.state("end").weights[name].abs()
        assert int(kept.sum()) == 9 and size[kept].max() < size[~kept].min()
        starts = [c.state("start").weights[name] for c in flipped]
        for control, start in zip(flipped, starts, strict=True):
            assert torch.equal(control.mask("start")[name], kept)
            assert torch.equal(start.abs(), ticket.state("start").weights[name].abs())
        assert not torch.equal(*starts), "each draw has a stream of its own"
    options = json.loads((folder / "seed_000" / "flipped" / "level_01.json").read_text())["options"]
    assert options == {"name": "mine.Flipped", "draws": 2}
    bad = ["model._target_=mine.Bare", "allocation._target_=mine.Leave", "allocation.right=1"]
    wrong = command("lth.run", *TINY, *bad, cwd=tmp_path)
    assert wrong.returncode == 2
    assert "error: allocation.right: got 1, allowed: left\n" in wrong.stderr
    assert "allowed: a class that takes input_shape and num_classes" in wrong.stderr


MINE = """
import dataclasses

import torch
from torch import nn

from lth.mask import keep_top


class Net(nn.Module):
    def __init__(self, *, input_shape, num_classes, hidden):
        super().__init__()
        self.a = nn.Linear(input_shape[0] * input_shape[1] * input_shape[2], hidden)
        self.b = nn.Linear(hidden, num_classes)

    def forward(self, x):
        return self.b(torch.relu(self.a(x.flatten(1))))


class Bare(nn.Module):
    def __init__(self, size=3):
        super().__init__()


def smallest(history, mask, *, forward, batches, generator):
    return {n: -history.scored.weights[n].abs() for n in mask}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Leave:
    left: int

    def __call__(self, scores, mask, *, layers, rate, times, keep):
        return {n: keep_top({n: scores[n]}, {n: kept}, self.left)[n] for n, kept in mask.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flipped:
    draws: int = 1
    searched = True

    def __call__(self, ticket, given):
        start = ticket.start
        signs = {
            n: torch.randint(0, 2, w.shape, generator=given.stream("signs", n)) * 2 - 1
            for n, w in start.weights.items()
        }
        weights = {n: w * signs[n] for n, w in start.weights.items()}
        return ticket.replace(start=dataclasses.replace(start, weights=weights))
"""


def test_a_sweep_goes_on_after_faulty_cells(tmp_path: Path) -> None:
    result = command(
        "lth.run",
        "-m",
        *(t for t in TINY if not t.startswith("seeds")),
        "seeds=[0]",
        "levels=1",
        "criterion=magnitude,bogus",
        "schedule.rate=0.5,1.5",
        cwd=tmp_path,
    )
    assert result.returncode == 1
    assert "sweep: 1 of 4 cells done" in result.stdout
    records = [json.loads(p.read_text()) for p in tmp_path.glob("results/sweep/*/*.json")]
    assert sorted(r["status"] for r in records) == ["done", "failed", "failed", "failed"]
    reasons = {r["reason"] for r in records if r["status"] == "failed"}
    known = ", ".join(sorted(p.stem for p in (conf_dir() / "criterion").glob("*.yaml")))
    assert reasons == {
        f"criterion: got 'bogus', allowed: {known}",
        "schedule.rate: got 1.5, allowed: 0 < rate < 1",
    }
    (done,) = (r for r in records if r["status"] == "done")
    assert (tmp_path / "results" / "run" / done["run_id"] / "run.json").exists()
    folders = [p.name for p in tmp_path.glob("results/sweep/*/*") if p.is_dir()]
    assert folders == ["report"]  # none of Hydra's


def test_a_sweep_over_seeds_is_one_run(tmp_path: Path) -> None:
    arguments = [*(t for t in TINY if not t.startswith("seeds")), "levels=1", "seeds=[0],[1]"]
    result = command("lth.run", "-m", *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert len(list(tmp_path.glob("results/run/*/run.json"))) == 1
    assert len(list(tmp_path.glob("results/run/*/seed_*"))) == 2


def test_names_of_cells_are_readable_and_bounded() -> None:
    assert slug(["seeds=[0]", "lr=cosine"]) == "lr=cosine_seeds=0"
    long = slug([f"a{i}=1" for i in range(100)])
    assert len(long) == 80
    assert long != slug([f"a{i}=1" for i in range(101)])
    assert "/" not in slug(["data_dir=/tmp/x"])
    assert slug(["data_dir=/tmp/x"]) != slug(["data_dir=-tmp-x"])


def test_a_network_with_nothing_to_prune_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "class Empty(nn.Module):\n"
        "    def __init__(self, input_shape, num_classes):\n"
        "        super().__init__()\n"
        "        self.num_classes = num_classes\n"
        "    def forward(self, x):\n"
        "        return x.flatten(1)[:, :self.num_classes]\n"
    )
    done = command("lth.run", *TINY, "model._target_=mine.Empty", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "error: model: got mine.Empty, allowed: another (Empty has no Linear or Conv layer to "
        "prune)\n"
    )
