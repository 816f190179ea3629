"""The plan says before the run what it will train, and what its verdict is going to lack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from lth.build import Run, build
from lth.conduct import conduct
from lth.engine.auto import Auto
from lth.paths import conf_dir
from lth.plan import Plan, plan
from lth.prepare import prepare, read_data
from lth.run import register
from lth.store.files import FileStore
from lth.store.run_folder import RunFolder

TINY = ["dataset=synthetic", "seeds=[0]", "train_steps=6it", "eval_every=3it", "batch_size=32"]


def prepared(root: Path, *options: str) -> Run:
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return build(compose("run", overrides=[*TINY, *options, f"store.root={root}", "sink=[]"]))


def planned(run: Run) -> Plan:
    root = run.store.root
    search = prepare(run, read_data(run))
    return plan(run, search, RunFolder(root, run.run_id), FileStore(root))


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
    text = planned(prepared(tmp_path, *options)).text
    (line,) = (line for line in text if line.startswith("  levels "))
    assert levels in line
    (line,) = (line for line in text if line.startswith("  verdict "))
    assert line.endswith(f"levels with density {verdict}")


def names(group: str) -> list[str]:
    return sorted(p.stem for p in (conf_dir() / group).glob("*.yaml"))


def check_plan(run: Run, *, at_most: bool = False) -> None:
    """What is planned is what the store has afterwards, each with its steps."""
    ahead, store = planned(run), FileStore(run.store.root)
    assert ahead.stored == 0 and ahead.seconds > 0
    conduct(run, None, report=False)
    updates = sorted(store.peek(i).done["updates"] for i in store.ids())  # type: ignore[union-attr]
    told = sorted(u for level in ahead.updates.values() for u in level)
    assert len(told) == len(updates) == ahead.trainings
    if at_most:
        assert all(u <= most for u, most in zip(updates, told, strict=True))
    else:
        assert updates == told
    again = planned(run)
    assert (again.trainings, again.stored, again.seconds) == (ahead.trainings, ahead.trainings, 0)
    (line,) = (line for line in ahead.text if line.startswith("  trainings "))
    few, many = told[0], told[-1]
    assert f"{len(told)} of {few}" + f" to {many}" * (many > few) + " updates; 0 stored" in line


LEVELS = ["levels=2", "seeds=[0,1]", "model.width=30"]
MORE = [
    "baseline.random_reinit.draws=2",
    "+baseline.strict._target_=lth.baseline.random_reinit.RandomReinit",
    "+baseline.strict.origin=dense_k",
    "+baseline.strict.draws=2",
    "+baseline.later._target_=lth.baseline.random_reinit.RandomReinit",
    "+baseline.later.origin=k",
    "+baseline.also_strict._target_=lth.baseline.random_reinit.RandomReinit",
    "+baseline.also_strict.origin=dense_k",
    "baseline.same_mask.rewind.schedule=hold",
    "baseline.same_mask.rewind.updates=2it",
]


@pytest.mark.parametrize("k", [2, 0])
@pytest.mark.parametrize("schedule", ["geometric", "one_shot"])
def test_every_training_of_every_control_is_planned(k: int, schedule: str, tmp_path: Path) -> None:
    # At k = 0 the ticket is that cell itself, which is refused.
    own = [n for n in names("baseline") if k > 0 or n != "late_mask_early_weights"]
    controls = [f"baseline=[{','.join(own)}]", *MORE]
    settings = [f"schedule={schedule}", f"rewind_step={k}it", "eval_every=3it"]
    check_plan(prepared(tmp_path, *LEVELS, *controls, *settings))


UNITS = [
    *("granularity=units", "model=resnet_20", "model.width=2", "allocation=global_top"),
    "schedule.rate=0.1",
]
FINDERS = {
    "early_bird": ["finder.every=1it"],
    "early_bird_channels": ["finder.every=1it", *UNITS],
    # So many weights that no two candidates are equal.
    "evolve": [
        *("finder.updates=2it", "finder.generations=2", "finder.population=4"),
        "model.width=300",
    ],
    **{name: ["finder.every=2it"] for name in ("gradual", "rigl", "set")},
}


@pytest.mark.parametrize("finder", names("finder"))
def test_every_training_of_every_finder_is_planned(finder: str, tmp_path: Path) -> None:
    if finder in ("evolve", "early_bird_channels"):
        pytest.importorskip("cmaes" if finder == "evolve" else "torch_pruning")
    units = finder == "early_bird_channels"
    settings = [f"finder={finder}", *([] if units else LEVELS), *FINDERS.get(finder, [])]
    settings += ["levels=2", "rewind_step=2it", "baseline=[dense_total,random_reinit]"]
    check_plan(prepared(tmp_path, *settings), at_most=finder.startswith("early_bird"))


def test_longer_trainings_take_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimate follows the steps: at level 20 ``dense_total`` trains 21 times as long."""
    train, now = Auto.train, [0.0]

    def timed(self: Auto, group: Any, **options: Any) -> Any:
        now[0] += sum(t.updates for t in group)  # an update takes a second, nothing else any
        return train(self, group, **options)

    monkeypatch.setattr(Auto, "train", timed)
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    settings = ["train_steps=300it", "eval_every=300it", "levels=20", "baseline_levels=[20]"]
    few = planned(prepared(tmp_path / "few", *settings, "baseline=[sham]"))
    many = planned(prepared(tmp_path / "many", *settings, "baseline=[dense_total]"))
    assert few.trainings == many.trainings == 22
    assert max(many.updates[0, 20]) == 21 * max(few.updates[0, 20])
    assert (few.seconds, many.seconds) == (22 * 301, 22 * 301 + 20 * 300)


class Seen:
    """A sink that notes how far a run is."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def open(self, plan: Any) -> None: ...

    def progress(self, row: Any) -> None:
        self.rows.append(row)

    def write(self, rows: Any) -> None: ...

    def say(self, text: str) -> None: ...

    def close(self, status: str, findings: Any) -> None: ...


def test_what_a_control_or_finder_trains_counts_for_its_own_seed_and_level(tmp_path: Path) -> None:
    """Another seed's level that is ready, here because it was before, takes none of it away."""
    options = ["levels=2", "finder=evolve", *FINDERS["evolve"], "baseline=[small_dense]"]
    for seeds in ("[0]", "[0,1]"):
        run = prepared(tmp_path, *options, f"seeds={seeds}", "store.keep_tensors=masks")
        seen = Seen()
        run.sink["seen"] = seen
        conduct(run, None, report=False)
        done = [row["done"] for row in seen.rows]
        assert done == sorted(done) and done[-1] < seen.rows[0]["of"]
        preludes = {(r["seed"], r["level"]) for r in seen.rows if r["variant"] == "prelude"}
        assert preludes == {(int(seeds[-2]), 1), (int(seeds[-2]), 2)}
