"""``store.keep_tensors``: less on disk, the same table, the same tickets when they are extended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from analysis.compare import summary
from analysis.evidence import evidence
from lth import load_ticket
from lth.build import build
from lth.complete import Workshop
from lth.conduct import conduct
from lth.paths import conf_dir
from lth.prepare import prepare, read_data
from lth.run import register
from lth.store.files import FileStore
from lth.store.run_folder import RunFolder
from lth.store.stored import DroppedError

SETTINGS = [
    "dataset=synthetic",
    "seeds=[0,1]",
    "train_steps=20it",
    "eval_every=10it",
    "rewind_step=5it",
    "device=cpu",
    "sink=[]",
]


def run(root: Path, *settings: str) -> RunFolder:
    register()
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        config = compose("run", overrides=[*SETTINGS, f"store.root={root}", *settings])
    made = build(OmegaConf.create(OmegaConf.to_container(config, resolve=True)))
    return RunFolder(root, conduct(made, None, report=False))


def times(root: Path) -> dict[str, Any]:
    store = FileStore(root)
    return {i: store.peek(i).done["seconds"] for i in store.ids()}  # type: ignore[union-attr]


def digests(root: Path) -> dict[str, Any]:
    store = FileStore(root)
    return {i: store.get(i).done["digests"] for i in store.ids()}  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three levels, all tensors."""
    root = tmp_path_factory.mktemp("whole")
    run(root, "levels=3")
    return root


@pytest.mark.parametrize(("mode", "levels_kept"), [("masks", {0}), ("last", {0, 2})])
@pytest.mark.parametrize("rewind", ["weights", "learning_rate"])
def test_a_thinned_run_repeats_and_extends(
    mode: str, levels_kept: set[int], rewind: str, whole: Path, tmp_path: Path
) -> None:
    keep = [f"store.keep_tensors={mode}", f"rewind={rewind}"]
    folder = run(tmp_path, "levels=2", *keep)
    store = FileStore(tmp_path)
    for r in folder.references():
        stored = store.get(r.training)
        assert stored is not None
        ticket_kept = r.variant == "ticket" and r.level in levels_kept
        assert (not stored.dropped) == ticket_kept, (r.variant, r.level)
        if stored.dropped:
            with pytest.raises(DroppedError, match="no state 'end' any more .store.keep_tensors."):
                stored.state("end")
        assert stored.mask() and stored.metrics() and len(stored.predictions())
    table, before = summary(evidence(folder)), times(tmp_path)
    again = run(tmp_path, "levels=2", *keep)
    assert summary(evidence(again)) == table
    assert times(tmp_path) == before
    extended = run(tmp_path, "levels=3", *keep)
    if rewind == "weights":
        # Bit for bit the run that kept everything.
        assert digests(tmp_path) == digests(whole)
    assert {r.level for r in extended.references()} == {0, 1, 2, 3}


def test_the_state_that_is_scored_is_had_again(tmp_path: Path) -> None:
    scored = ["prune_at=early_stop"]
    run(tmp_path / "thin", "levels=1", "store.keep_tensors=masks", *scored)
    run(tmp_path / "thin", "levels=2", "store.keep_tensors=masks", *scored)
    run(tmp_path / "whole", "levels=2", *scored)
    assert digests(tmp_path / "thin") == digests(tmp_path / "whole")


def test_a_dropped_ticket_says_so(tmp_path: Path) -> None:
    folder = run(tmp_path, "levels=1", "store.keep_tensors=masks")
    with pytest.raises(DroppedError, match="store.keep_tensors"):
        load_ticket(folder.path / "seed_000" / "ticket" / "level_01")
    assert load_ticket(folder.path / "seed_000" / "ticket" / "level_00").start.weights


def test_what_another_run_refers_to_stays(tmp_path: Path) -> None:
    first = run(tmp_path, "levels=1")
    # Another k: the same dense networks, and at level 1 the same fresh control.
    second = run(tmp_path, "levels=1", "rewind_step=3it", "store.keep_tensors=masks")
    shared = {r.training for r in first.references()} & {r.training for r in second.references()}
    store = FileStore(tmp_path)
    assert shared and all(not store.peek(i).dropped for i in shared)  # type: ignore[union-attr]
    assert all(not store.peek(r.training).dropped for r in first.references())  # type: ignore[union-attr]
    assert any(store.peek(r.training).dropped for r in second.references())  # type: ignore[union-attr]


def test_what_shares_the_run_still_reads_what_would_go(tmp_path: Path) -> None:
    """Another process draws its report, say; the last one that ends removes the states."""
    folder = run(tmp_path, "levels=1")
    store = FileStore(tmp_path)

    def dropped() -> bool:
        return any(store.peek(i).dropped for i in store.ids())  # type: ignore[union-attr]

    with folder.at_work():
        run(tmp_path, "levels=1", "store.keep_tensors=masks")
        assert not dropped()
    run(tmp_path, "levels=1", "store.keep_tensors=masks")
    assert dropped()


def test_nobody_begins_while_states_go_and_whoever_begins_is_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []

    def begin(folder: RunFolder, *arguments: Any) -> None:
        with folder.alone() as alone:
            called.append(("begin", alone))
        noted(folder, *arguments)

    def thin(store: FileStore, folder: RunFolder, keep_tensors: str) -> None:
        with folder.alone() as alone:
            called.append(("thin", alone))

    noted = RunFolder.begin
    monkeypatch.setattr(RunFolder, "begin", begin)
    monkeypatch.setattr("lth.conduct.thin", thin)
    run(tmp_path, "levels=0", "store.keep_tensors=masks")
    assert called == [("begin", False), ("thin", False)]


def test_faults() -> None:
    with pytest.raises(ValueError, match="keep_tensors: got 'some', allowed: all, masks, last"):
        FileStore("x", keep_tensors="some")


@pytest.mark.parametrize("kept", [["keep=[8it]"], ["prune_at=6it", "rewind_step=0it"]])
def test_kept_states_that_were_dropped_are_not_trained_for(kept: list[str], tmp_path: Path) -> None:
    settings = ["store.keep_tensors=masks", *kept]
    folder = run(tmp_path, "levels=2", *settings)
    table, before = summary(evidence(folder)), times(tmp_path)
    assert summary(evidence(run(tmp_path, "levels=2", *settings))) == table
    assert times(tmp_path) == before
    extended = run(tmp_path, "levels=3", *settings)
    assert {r.level for r in extended.references()} == {0, 1, 2, 3}


def test_what_is_added_to_a_thinned_training_can_be_read(tmp_path: Path) -> None:
    folder = run(tmp_path, "levels=1", "keep=[8it]", "store.keep_tensors=masks")
    store = FileStore(tmp_path)
    (ticket,) = {r.training for r in folder.references() if r.level == 1 and r.seed == 0} & {
        r.training for r in folder.references() if r.variant == "ticket"
    }
    stored = store.get(ticket)
    assert stored is not None and "keep_8.safetensors" in str(stored.dropped)
    state = store.get(next(r.training for r in folder.references() if r.level == 0)).state("end")  # type: ignore[union-attr]
    again = store.amend(stored, {"8": state})
    assert again.state(8).step == state.step and "keep_8" not in str(again.dropped)


OPTIONS = {
    "early_bird_channels": [
        "granularity=units",
        "allocation=global_top",
        "model=resnet_20",
        "model.width=2",
        "schedule.rate=0.1",
    ],
    "evolve": ["finder.updates=2it", "finder.generations=1", "finder.population=4"],
    **{name: ["finder.every=3it"] for name in ("early_bird", "gradual", "rigl", "set")},
}
"""What a finder needs on top, for a tiny run."""


FINDERS = sorted(p.stem for p in (conf_dir() / "finder").glob("*.yaml"))


@pytest.mark.parametrize(
    ("finder", "rewind"),
    [*((finder, "learning_rate") for finder in FINDERS), ("rigl", "weights")],
)
def test_a_thinned_run_with_a_finder_is_not_trained_again(
    finder: str, rewind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if finder in ("evolve", "early_bird_channels"):
        pytest.importorskip("cmaes" if finder == "evolve" else "torch_pruning")
    settings = [f"finder={finder}", *OPTIONS.get(finder, []), f"rewind={rewind}"]
    settings += ["seeds=[0]", "baseline=[random_reinit]"]
    keep = "store.keep_tensors=masks"
    folder = run(tmp_path / "thin", "levels=2", keep, *settings)
    table, before = summary(evidence(folder)), times(tmp_path / "thin")
    with monkeypatch.context() as patch:
        patch.setattr(Workshop, "_train", untrained)
        patch.setattr(Workshop, "_replay", untrained)
        assert summary(evidence(run(tmp_path / "thin", "levels=2", keep, *settings))) == table
    assert times(tmp_path / "thin") == before
    # One level more goes on from what was dropped: bit for bit the run that kept everything.
    run(tmp_path / "thin", "levels=3", keep, *settings)
    run(tmp_path / "whole", "levels=3", *settings)
    assert digests(tmp_path / "thin") == digests(tmp_path / "whole")


def untrained(*arguments: Any, **named: Any) -> Any:
    raise AssertionError("nothing is to be trained")


@pytest.mark.parametrize("control", ["inverted_scores", "same_mask", "corrupted_task"])
def test_controls_that_look_at_the_parent_are_not_made_again(
    control: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["levels=2", f"baseline=[{control}]", "store.keep_tensors=masks"]
    folder = run(tmp_path, *settings)
    table = summary(evidence(folder))
    monkeypatch.setattr(Workshop, "_train", untrained)
    monkeypatch.setattr(Workshop, "_replay", untrained)
    assert summary(evidence(run(tmp_path, *settings))) == table


def test_a_recalled_row_can_still_be_trained_from(tmp_path: Path) -> None:
    """Its Training is made when it is asked for, and is the one that was stored."""
    settings = ["levels=2", "finder=rigl", "finder.every=3it", "store.keep_tensors=masks"]
    run(tmp_path, *settings)
    register()
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        config = compose("run", overrides=[*SETTINGS, f"store.root={tmp_path}", *settings])
    made = build(OmegaConf.create(OmegaConf.to_container(config, resolve=True)))
    search = prepare(made, read_data(made))
    workshop = Workshop(store=FileStore(tmp_path), engine=made.engine, say=lambda text: None)
    levels = list(search.run(workshop))
    assert [len(rows) for rows in levels] == [2, 2 * 5, 2 * 5]
    for row in levels[2]:
        assert row.training.id == row.stored.id, row.variant


def test_what_is_missing_or_new_is_trained(tmp_path: Path) -> None:
    settings = ["levels=2", "finder=rigl", "finder.every=3it", "store.keep_tensors=masks"]
    folder = run(tmp_path, *settings, "baseline=[]")
    before = digests(tmp_path)
    run(tmp_path, *settings, "baseline=[sham]")
    assert {r.variant for r in folder.references()} == {"ticket", "rigl", "static", "sham"}
    after = digests(tmp_path)
    assert {i: after[i] for i in before} == before and len(after) == len(before) + 4
    (lost,) = (
        r.training for r in folder.references() if (r.seed, r.variant, r.level) == (1, "ticket", 2)
    )
    FileStore(tmp_path).discard(lost)
    run(tmp_path, *settings, "baseline=[sham]")
    assert digests(tmp_path) == after
