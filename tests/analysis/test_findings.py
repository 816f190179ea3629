"""Findings are the evidence in plain values: what is unknown is None, or not drawn."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd

from analysis.evidence import Evidence
from analysis.findings import figures, of_evidence

NAN = math.nan
EVIDENCE = Evidence(
    run_id="a-run",
    settings={"endpoint": "final", "verdict_against": "sham", "verdict_density": [0.1, 0.6]},
    trainings=pd.DataFrame({"status": ["done", "done", "done", "diverged"]}),
    accuracy=pd.DataFrame(
        [
            {"level": 0, "variant": "ticket", "density": 1.0, "mean": 0.9, "low": NAN, "n": 1},
            {"level": 1, "variant": "sham", "density": 1.0, "mean": 0.8, "low": 0.7, "n": 2},
        ]
    ),
    difference=pd.DataFrame(
        [
            {"level": 2, "against": "sham", "density": 0.25, "mean": 0.2, "low": NAN, "high": 0.3,
             "n": 2},
            {"level": 1, "against": "sham", "density": 0.5, "mean": 0.1, "low": 0.0, "high": 0.2,
             "n": 2},
        ]
    ),
    early_stop=pd.DataFrame({"level": [0], "median": [50.0]}),
    matching=pd.DataFrame({"level": [1], "state": ["undecided"]}),
    matching_range=pd.DataFrame(
        [{"tolerance": "1 SD", "epsilon": 0.01, "sparsest_before_failure": 0.25,
          "sparsest_certain": NAN, "point_rule": 0.5}]
    ),
    cost=pd.DataFrame({"level": [0], "seconds": [1.5]}),
    best=None,
    verdict="The ticket wins.",
)  # fmt: skip


def test_the_numbers_of_a_run() -> None:
    assert of_evidence(EVIDENCE)["numbers"] == {
        "verdict": "The ticket wins.",
        "endpoint": "final",
        "trainings": 4,
        "diverged": 1,
        # Of level 2, the sparsest.
        "gap/sham/density": 0.25,
        "gap/sham/mean": 0.2,
        "gap/sham/low": None,
        "gap/sham/high": 0.3,
        "gap/sham/n": 2,
        "matching_range/1 SD/epsilon": 0.01,
        "matching_range/1 SD/sparsest_before_failure": 0.25,
        "matching_range/1 SD/sparsest_certain": None,
        "matching_range/1 SD/point_rule": 0.5,
    }


def test_curves_and_tables() -> None:
    found = of_evidence(EVIDENCE)
    assert found["curves"][:2] == [
        {"density": 1.0, "level": 0, "across_seeds/ticket/mean": 0.9, "across_seeds/ticket/n": 1},
        {
            "density": 1.0,
            "level": 1,
            "across_seeds/sham/mean": 0.8,
            "across_seeds/sham/low": 0.7,
            "across_seeds/sham/n": 2,
        },
    ]
    assert "across_seeds/ticket_minus_sham/mean" in found["curves"][2]
    assert len(found["curves"]) == 4
    assert found["tables"]["matching"] == (["level", "state"], [[1, "undecided"]])
    assert len(found["tables"]) == 6
    json.dumps(found, allow_nan=False)


def test_pictures_by_name(tmp_path: Path) -> None:
    assert figures(tmp_path / "nothing") == {}
    (tmp_path / "png").mkdir()
    (tmp_path / "png" / "accuracy.png").touch()
    assert figures(tmp_path) == {"accuracy": tmp_path / "png" / "accuracy.png"}
