"""Planted truth from the disk on: a store whose accuracies are known, read and judged whole."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from analysis import compare
from analysis.evidence import evidence
from analysis.verdict import verdict
from lth.store.files import FileStore
from lth.store.run_folder import RunFolder
from lth.store.stored import DONE, seal, unseal


def planted_store(small_run: RunFolder, root: Path, *, gap: float, loss: float) -> RunFolder:
    """The small run with test accuracies of its own: tickets ``loss`` below dense, ``gap``
    above their controls, with a spread of 2 points between seeds and 0.02 within."""
    shutil.copytree(small_run.store_root, root, symlinks=True)
    folder = RunFolder(root, small_run.run_id)
    rng = np.random.default_rng(0)
    seeds = {seed: 0.9 + 0.02 * rng.standard_normal() for seed in (0, 1, 2)}
    for r in folder.references():
        path = FileStore(root).folder(r.training).path / DONE
        done = unseal(path.read_bytes(), "")
        value = seeds[r.seed] - (loss if r.level else 0.0)
        value -= gap if r.variant != "ticket" else 0.0
        value += 0.0002 * rng.standard_normal()
        for when in ("early_stop", "final"):
            done[when] = {**done[when], "test_accuracy": value, "val_accuracy": value}
        path.write_bytes(seal(done))
    return folder


@pytest.mark.parametrize(
    ("gap", "words"),
    [
        (0.01, "the ticket wins"),
        (-0.01, "random_reinit wins"),
        (0.0, "the interval covers 0, so this run cannot tell"),
    ],
)
def test_the_verdict_of_a_planted_store(
    gap: float, words: str, small_run: RunFolder, tmp_path: Path
) -> None:
    folder = planted_store(small_run, tmp_path / "results", gap=gap, loss=0.0)
    proof = evidence(folder)
    # Two levels, 55 and 31 %: the verdict's densities are asked for from 2 to 10 %.
    assert proof.verdict.startswith("No verdict: no level with density 2 to 10 %")
    wide = {**proof.settings, "verdict_density": [0.1, 0.9]}
    text = verdict(proof.trainings, wide)
    assert words in text and "n = 3 seeds" in text
    row = proof.difference.set_index(["level", "against"]).loc[(1, "random_reinit")]
    assert row["mean"] == pytest.approx(gap, abs=5e-4)
    assert row["low"] <= gap <= row["high"]


@pytest.mark.parametrize(("loss", "state"), [(0.0, "matching"), (0.01, "not matching")])
def test_matching_of_a_planted_store(
    loss: float, state: str, small_run: RunFolder, tmp_path: Path
) -> None:
    folder = planted_store(small_run, tmp_path / "results", gap=0.0, loss=loss)
    table = evidence(folder).matching
    assert set(table[table["tolerance"] == "0.2 points"]["state"]) == {state}
    ends = evidence(folder).matching_range.set_index("tolerance")
    certain = ends.loc["0.2 points", "sparsest_certain"]
    assert (certain < 0.35) if state == "matching" else np.isnan(certain)
    assert "Matches dense within 0.2 points" in compare.summary(evidence(folder))
