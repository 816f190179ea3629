"""The command: copies are made once and stored, every kind of pair is measured, faults are told."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import connect
from analysis.evidence import evidence
from analysis.figure import Subject
from analysis.plot import instability
from lth.copies import reopen
from lth.store.files import FileStore
from lth.store.run_folder import RunFolder
from lth.tuned import FILE


@pytest.fixture(scope="module")
def folder(small_run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A copy of the small run, measured at levels 0 and 2 and for a later k."""
    root = tmp_path_factory.mktemp("connect") / "results"
    shutil.copytree(small_run.store_root, root, symlinks=True)
    own = RunFolder(root, small_run.run_id)
    assert (
        connect.main([str(own.path), "--levels", "0,2", "--points", "5", "--rewind-steps", "20it"])
        == 0
    )
    return own


def test_every_kind_of_pair_is_measured(folder: RunFolder) -> None:
    pairs = pd.read_csv(folder.report / "connect.csv")
    found = pairs.groupby(["kind", "level", "rewind_step"]).size().to_dict()
    assert found == {
        ("order", 0, 0): 3,
        ("order", 0, 20): 3,
        ("order", 2, 0): 3,
        ("levels", 2, 0): 3,
        ("inits", 0, 0): 2,
        ("inits", 2, 0): 2,
    }
    assert set(pairs[pairs["kind"] == "levels"]["pair"]) == {"levels 1, 2"}
    lines = pd.read_csv(folder.report / "connect_lines.csv")
    assert len(lines) == 5 * len(pairs)
    assert sorted(lines["alpha"].unique()) == [0, 0.25, 0.5, 0.75, 1]
    # The barriers are those of the lines.
    for key, own in lines.groupby(["seed", "level", "rewind_step", "kind", "pair"]):
        row = pairs.set_index(["seed", "level", "rewind_step", "kind", "pair"]).loc[key]
        error = own.sort_values("alpha")["test_error"].to_numpy()
        assert row["test_barrier"] == pytest.approx(error.max() - (error[0] + error[-1]) / 2)
    order = pairs[pairs["kind"] == "order"].groupby("level")["l2"].mean()
    inits = pairs[pairs["kind"] == "inits"].groupby("level")["l2"].mean()
    assert (order < inits).all()


def test_copies_are_stored_and_not_made_again(folder: RunFolder) -> None:
    before = {i: p for i in FileStore(folder.store_root).ids() for p in [i]}
    assert (
        connect.main(
            [str(folder.path), "--levels", "0,2", "--points", "3", "--rewind-steps", "20it"]
        )
        == 0
    )
    assert {i: i for i in FileStore(folder.store_root).ids()} == before


def test_the_ends_of_a_line_are_the_stored_networks(folder: RunFolder) -> None:
    lines = pd.read_csv(folder.report / "connect_lines.csv")
    frame = evidence(folder).trainings
    ticket = frame[(frame["variant"] == "ticket") & (frame["level"] == 2)].set_index("seed")
    first = lines[(lines["kind"] == "order") & (lines["level"] == 2) & (lines["alpha"] == 0)]
    for row in first.itertuples():
        assert 1 - row.test_error == pytest.approx(ticket.loc[row.seed, "final_test_accuracy"])


def test_the_figure_is_drawn(folder: RunFolder) -> None:
    figure = instability.draw(Subject(folder, evidence(folder)))
    assert figure is not None and len(figure.panels) == 3
    labels = {s.label for s in figure.panels[0].series}
    assert labels == {"stable below 2 points", *instability.LABELS.values()}


@pytest.mark.parametrize("seeds", [[0], [0, 1, 2]])
def test_the_figure_shows_the_runs_own_k(
    seeds: list[int], folder: RunFolder, tmp_path: Path
) -> None:
    """One seed has no other initialisations that would tell which k is the run's."""
    root = tmp_path / "results"
    shutil.copytree(folder.store_root, root, symlinks=True)
    own = RunFolder(root, folder.run_id)
    for name in ("connect.csv", "connect_lines.csv"):
        table = pd.read_csv(own.report / name)
        if len(seeds) == 1:
            table = table[(table["seed"] == 0) & (table["kind"] != "inits")]
        # As if the run rewound to 30, with copies of dense from 20 too.
        table["rewind_step"] = table["rewind_step"].replace(0, 30)
        table.to_csv(own.report / name, index=False)
    figure = instability.draw(Subject(own, evidence(own)))
    assert figure is not None
    (dense,) = (s for s in figure.panels[0].series if s.label == instability.LABELS["order"])
    table = connect.summarise(pd.read_csv(own.report / "connect.csv"))
    wanted = table[(table["kind"] == "order") & (table["k"] == 30)].sort_values("level")
    assert list(dense.y) == pytest.approx(list(100 * wanted["barrier"]))


def test_nothing_to_measure_is_a_fault(make_run: Any, tmp_path: Path, capsys: Any) -> None:
    root = tmp_path / "results"
    settings = ["optimizer=sgd", "optimizer.lr=1e30", "seeds=[0,1]", "report=false"]
    assert make_run(root, *settings).returncode == 0
    assert connect.main([str(root)]) == 2
    assert "--levels: got 0, allowed: levels with tickets not diverged" in capsys.readouterr().err
    assert not list(root.rglob("connect*.csv"))


def test_the_states_of_the_summary() -> None:
    def pairs(values: list[float]) -> pd.DataFrame:
        return pd.DataFrame(
            {
                "seed": range(len(values)),
                "kind": "order",
                "level": 0,
                "rewind_step": 0,
                "density": 1.0,
                "test_barrier": values,
                "train_barrier": values,
                "l2": 1.0,
                "cosine": 0.1,
                "disagreement": 0.0,
            }
        )

    for values, state in (
        ([0.001, 0.002, 0.003], "stable"),
        ([0.30, 0.31, 0.32], "not stable"),
        ([0.00, 0.02, 0.04], "undecided"),
        ([0.001], "undecided"),
    ):
        table = connect.summarise(pairs(values))
        assert table["state"].tolist() == [state]
    stable = connect.summarise(pairs([0.001, 0.002, 0.003]))
    assert "copies of dense are stable (below 2 points): 0" in connect.text(stable)


def test_a_store_that_cannot_be_written_is_one_line(
    small_run: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system", "results/training")

    monkeypatch.setattr(connect, "measure", full)
    assert connect.main([str(small_run.path)]) == 1
    error = "store: cannot be written: results/training: Read-only file system\n"
    assert capsys.readouterr().err == error


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--levels", "9"], "--levels: got '9', allowed: some of 0, 1, 2"),
        (["--points", "1"], "--points: got 1, allowed: 2 or more"),
        (["--rewind-steps", "60it"], "--rewind-steps: got 60it, allowed: below 60it"),
        (["--rewind-steps", "soon"], "--rewind-steps: got 'soon', allowed: a step such as"),
    ],
)
def test_faults(arguments: list[str], fault: str, small_run: Any, capsys: Any) -> None:
    assert connect.main([str(small_run.path), *arguments]) == 2
    assert fault in capsys.readouterr().err
    assert not Path(small_run.report / "connect.csv").exists()


def test_what_an_engine_measures_is_measured_for_copies_too(
    small_run: RunFolder, tmp_path: Path
) -> None:
    root = tmp_path / "results"
    shutil.copytree(small_run.store_root, root, symlinks=True)
    asked = {"engine": {"_target_": "lth.engine.mlp.MLP", "sparse_below": "measured"}}
    found = []
    for _ in range(2):
        run, search = reopen(RunFolder(root, small_run.run_id), **asked)
        told = run.engine.numerics(run.runtime, search.dense(search.seeds[0]))
        found.append(told["sparse_below"])
    assert found[0] == found[1] and len(found[0]) > 1
    assert (root / FILE).exists()
