"""The plan says before the run what its verdict is going to lack."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from lth.build import build
from lth.paths import conf_dir
from lth.plan import plan
from lth.prepare import prepare, read_data
from lth.run import register
from lth.store.files import FileStore
from lth.store.run_folder import RunFolder

TINY = ["dataset=synthetic", "seeds=[0]", "train_steps=6it", "eval_every=3it", "batch_size=32"]


@pytest.mark.parametrize(
    ("options", "levels", "verdict"),
    [
        # Layers keep 0.55 and the output 0.775 of their weights each time.
        (["levels=5"], "(density 1 to 0.0522)", "2 % to 10 %"),
        (["levels=1"], "(density 1 to 0.552)", "2 % to 10 % (no level has)"),
        (["levels=5", "baseline_levels=[1]"], "0.0522)", "2 % to 10 % (no level has)"),
        (["levels=0"], "levels     0 to 0;", "2 % to 10 % (no level has)"),
        (
            ["levels=1", "baseline=[sham]"],
            "(density 1 to 0.552)",
            "2 % to 10 % (random_reinit is not among these controls)",
        ),
        # Which units go, and so how many weights, is known when they are scored.
        (["levels=1", "granularity=units"], "(density 1 to about 0.4)", "2 % to 10 %"),
    ],
)
def test_a_verdict_that_cannot_be_is_said_before(
    tmp_path: Path, options: list[str], levels: str, verdict: str
) -> None:
    if "granularity=units" in options:
        pytest.importorskip("torch_pruning")
    register()
    root = tmp_path / "results"
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        run = build(compose("run", overrides=[*TINY, *options, f"store.root={root}"]))
    search = prepare(run, read_data(run))
    text = plan(run, search, RunFolder(root, run.run_id), FileStore(root)).text
    (line,) = (line for line in text if line.startswith("  levels "))
    assert levels in line
    (line,) = (line for line in text if line.startswith("  verdict "))
    assert line.endswith(f"levels with density {verdict}")
