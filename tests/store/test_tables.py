"""Metrics, predictions and probes as parquet: canonical bytes, NaN and absent values."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lth.store import tables

ROWS = [
    {"step": 0.0, "batch_loss": math.nan, "val_loss": 2.5},
    {"step": 50.0, "batch_loss": 0.1 + 0.2, "val_loss": 1.0, "test_loss": 1.5},
]


def test_metrics_come_back_to_the_last_bit_with_whole_steps() -> None:
    first, second = tables.decode(tables.encode_metrics(ROWS))
    assert math.isnan(first.pop("batch_loss"))
    assert first == {"step": 0, "val_loss": 2.5, "test_loss": None}
    assert second == {"step": 50, "batch_loss": 0.1 + 0.2, "val_loss": 1.0, "test_loss": 1.5}
    assert isinstance(second["step"], int)


def test_the_order_of_a_row_s_keys_does_not_move_a_byte() -> None:
    turned = [dict(reversed(row.items())) for row in ROWS]
    assert tables.encode_metrics(turned) == tables.encode_metrics(ROWS)
    assert list(tables.columns(tables.encode_metrics(ROWS))) == [
        "step",
        "batch_loss",
        "test_loss",
        "val_loss",
    ]


def test_a_probe_that_saw_nothing_has_an_empty_table() -> None:
    assert tables.decode(tables.encode_rows([])) == []


def test_predictions_are_one_row_per_example_split_and_moment() -> None:
    found = tables.columns(
        tables.encode_predictions(
            {
                "val/end/loss": torch.tensor([0.5, 0.25]),
                "val/end/class": torch.tensor([3, 1]),
                "test/early_stop/class": torch.tensor([2]),
                "test/early_stop/loss": torch.tensor([math.nan]),
            }
        )
    )
    rows = list(zip(*(found[c].tolist() for c in ("split", "when", "index", "class")), strict=True))
    assert rows == [("test", "early_stop", 0, 2), ("val", "end", 0, 3), ("val", "end", 1, 1)]
    assert math.isnan(found["loss"][0])
    assert found["loss"][1:].tolist() == [0.5, 0.25]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads as Linux does")
def test_reading_leaves_no_thread_behind() -> None:
    # One that holds Python's bytes when the process ends aborts it, now and then.
    code = """if True:
        import os
        from lth.store import tables
        before = len(os.listdir("/proc/self/task"))
        for _ in range(3):
            tables.decode(tables.encode_metrics([{"step": 0, "val_loss": 0.5}]))
        tasks = os.listdir("/proc/self/task")
        names = [open(f"/proc/self/task/{t}/comm").read() for t in tasks]
        assert len([n for n in names if "jemalloc" not in n]) <= before, names
    """
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
