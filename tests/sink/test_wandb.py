"""What W&B holds of a run, read back from its offline log and compared with the store."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis.findings import findings
from lth.sink.ledger import Ledger
from lth.sink.link import LinkError
from lth.sink.mirror import Mirror, place
from lth.sink.wandb import Wandb
from lth.store.files import FileStore
from lth.store.run_folder import Reference, RunFolder
from lth.store.stored import Stored

Logs = Callable[[Path], dict[str, Any]]


def references(folder: RunFolder, **where: Any) -> list[Reference]:
    found = folder.references()
    return [r for r in found if all(getattr(r, k) == v for k, v in where.items())]


def stored(folder: RunFolder, reference: Reference) -> Stored:
    found = FileStore(folder.store_root).get(reference.training)
    assert found is not None
    return found


# One life


def test_a_run_per_seed_and_a_summary(mirrored: RunFolder, logs: Logs) -> None:
    found = logs(mirrored.store_root)
    assert sorted(found) == ["s0-0", "s1-0", "summary-0"]
    for part, log in found.items():
        assert log.run["run_id"] == f"{mirrored.run_id}-{part}"
        assert log.run["run_group"] == mirrored.run_id
        assert log.run["project"] == "lth"
        names = {"a_claim", "a_sweep", "LeNet300100", "Synthetic", "magnitude"}
        assert set(log.run["tags"]) == names
        assert log.of("exit")[0]["exit_code"] == 0
    assert [found[p].run["job_type"] for p in ("s0-0", "s1-0", "summary-0")] == [
        "seed",
        "seed",
        "summary",
    ]


def test_the_config_is_the_whole_resolved_one(mirrored: RunFolder, logs: Logs) -> None:
    config = logs(mirrored.store_root)["s1-0"].config
    assert config["train_steps"] == "20it"
    assert config["optimizer"]["lr"] == 0.003
    assert config["baseline"]["random_reinit"]["draws"] == 2
    assert config["store"]["root"] == str(mirrored.store_root)
    assert config["lth"] == {
        "run_id": mirrored.run_id,
        "seed": 1,
        "life": 0,
        "experiment": "a_claim",
        "sweep": "a_sweep",
        "model": "LeNet300100",
        "data": "Synthetic",
        "method": "magnitude",
    }


def test_every_curve_is_the_stored_one_against_its_own_step(
    mirrored: RunFolder, logs: Logs
) -> None:
    compared = 0
    for seed in (0, 1):
        log = logs(mirrored.store_root)[f"s{seed}-0"]
        for reference in references(mirrored, seed=seed):
            draw = "_draw_1" if reference.draw else ""
            path = f"train/{reference.variant}{draw}/level_{reference.level:02d}"
            assert log.axes[f"{path}/*"] == f"{path}/step"
            assert log.axes[f"{path}/step"] is None
            for key in ("val_loss", "val_accuracy", "batch_loss", "test_accuracy"):
                rows = stored(mirrored, reference).metrics()
                expected = [(m["step"], m[key]) for m in rows if m[key] is not None]
                expected = [pair for pair in expected if pair[1] == pair[1]]
                assert log.series(f"{path}/step", f"{path}/{key}") == expected
                compared += len(expected)
    # 9 trainings a seed, 3 grid points each, for validation alone.
    assert compared > 2 * 9 * 3 * 2


def test_results_are_against_density_with_draws_averaged(mirrored: RunFolder, logs: Logs) -> None:
    log = logs(mirrored.store_root)["s0-0"]
    for variant in ("ticket", "random_reinit", "shuffled_mask", "ticket_minus_random_reinit"):
        assert log.axes[f"level/{variant}/*"] == "density"
    means = {}
    for level in (1, 2):
        for variant, draws in (("ticket", 1), ("random_reinit", 2)):
            found = references(mirrored, seed=0, level=level, variant=variant)
            assert len(found) == draws
            values = [stored(mirrored, r).done["early_stop"]["test_accuracy"] for r in found]
            means[level, variant] = sum(values) / draws
            key = f"level/{variant}/test_accuracy"
            assert (found[0].density, level, pytest.approx(means[level, variant])) in log.series(
                "density", "level", key
            )
    gaps = log.series("level", "level/ticket_minus_random_reinit/test_accuracy")
    assert gaps == [
        (level, pytest.approx(means[level, "ticket"] - means[level, "random_reinit"]))
        for level in (1, 2)
    ]
    assert log.series("level/ticket/layer_density/fc1", "density")[0] == (1, 1)


def test_every_ticket_is_an_artifact_of_our_own_files(mirrored: RunFolder, logs: Logs) -> None:
    for seed in (0, 1):
        artifacts = logs(mirrored.store_root)[f"s{seed}-0"].artifacts
        tickets = references(mirrored, seed=seed, variant="ticket")
        assert len(artifacts) == len(tickets) == 3
        for reference in tickets:
            name = f"ticket-{mirrored.run_id}-s{seed}-level_{reference.level:02d}"
            held = stored(mirrored, reference)
            metadata = json.loads(artifacts[name]["metadata"])
            assert metadata["density"] == pytest.approx(reference.density)
            assert metadata["training"] == reference.training
            assert metadata["digests"] == held.done["digests"]
            before = f"ticket-{mirrored.run_id}-s{seed}-level_{reference.level - 1:02d}"
            assert metadata["parent"] == (before if reference.level else None)
            files = {f["path"]: f["local_path"] for f in artifacts[name]["manifest"]["contents"]}
            assert set(files) == {
                "training.json",
                "mask.safetensors",
                "start.safetensors",
                "end.safetensors",
            }
            for file, path in files.items():
                assert Path(path).is_relative_to(mirrored.store_root / "training")
                assert Path(path).read_bytes() == held.read(file)
                assert metadata["sha256"][file] == held.done["files"][file]


@pytest.mark.parametrize(
    ("artifacts", "files"),
    [("masks", {"training.json", "mask.safetensors"}), ("none", None)],
)
def test_fewer_files_where_that_is_wanted(
    artifacts: str, files: set[str] | None, mirrored: RunFolder
) -> None:
    level = references(mirrored, seed=0, level=1)
    messages = list(Mirror(mirrored, artifacts).level("a-run", level, {place(r) for r in level}))
    found = [m for m in messages if m["do"] == "artifact"]
    assert [set(m["files"]) for m in found] == ([files] if files else [])


def test_the_summary_says_what_was_found(mirrored: RunFolder, logs: Logs) -> None:
    log = logs(mirrored.store_root)["summary-0"]
    expected = findings(mirrored)
    shown = log.summary()
    assert "the ticket is" in expected["numbers"]["verdict"]
    for key, value in expected["numbers"].items():
        assert shown[key] == (pytest.approx(value) if isinstance(value, float) else value), key
    assert log.axes["across_seeds/*"] == "density"
    columns, rows = expected["tables"]["accuracy"]
    (path,) = log.path.glob("files/media/table/tables/accuracy_*.table.json")
    table = json.loads(path.read_text())
    assert table["columns"] == columns
    assert len(table["data"]) == len(rows) == 1 + 2 * 3
    drawn = log.series("density", "across_seeds/ticket/mean", "across_seeds/ticket/n")
    assert drawn == [
        (pytest.approx(r[2]), pytest.approx(r[3]), 2) for r in rows if r[1] == "ticket"
    ]


# More lives


def test_a_later_life_shows_all_and_an_unchanged_run_makes_none(
    tmp_path: Path, lth_run: Callable[..., RunFolder], logs: Logs
) -> None:
    small = ["sink.wandb.mode=offline", "baseline=[random_reinit]", "seeds=[0]"]
    lth_run(tmp_path, *small, "levels=1")
    assert sorted(logs(tmp_path)) == ["s0-0", "summary-0"]
    lth_run(tmp_path, *small, "levels=1")
    assert sorted(logs(tmp_path)) == ["s0-0", "summary-0"]
    folder = lth_run(tmp_path, *small, "seeds=[0,1]")
    found = logs(tmp_path)
    assert sorted(found) == ["s0-0", "s0-1", "s1-1", "summary-0", "summary-1"]
    for seed in (0, 1):
        newest = found[f"s{seed}-1"]
        assert [v[0] for v in newest.series("level", "level/ticket/test_accuracy")] == [0, 1, 2]
        assert len(newest.artifacts) == 3
    assert Ledger(folder).next_life() == 2


def test_a_seed_of_which_nothing_is_new_is_repeated_when_there_is_more(
    tmp_path: Path, lth_run: Callable[..., RunFolder], logs: Logs
) -> None:
    small = ["sink.wandb.mode=offline", "baseline=[random_reinit]", "seeds=[0]"]
    lth_run(tmp_path, *small, "levels=0")
    # At its start W&B holds all of the seed, so that no run is made before level 1 is there.
    lth_run(tmp_path, *small, "levels=1")
    newest = logs(tmp_path)["s0-1"]
    assert [v[0] for v in newest.series("level", "level/ticket/test_accuracy")] == [0, 1]
    assert len(newest.series("train/ticket/level_00/step")) == 3


def test_a_control_that_is_added_later_joins_what_is_shown(
    tmp_path: Path, lth_run: Callable[..., RunFolder], logs: Logs
) -> None:
    small = ["sink.wandb.mode=offline", "seeds=[0]", "levels=1"]
    lth_run(tmp_path, *small, "baseline=[random_reinit]")
    lth_run(tmp_path, *small, "baseline=[shuffled_mask]", "verdict_against=random_reinit")
    newest = logs(tmp_path)["s0-1"]
    for path in ("ticket", "random_reinit", "shuffled_mask"):
        # Once each: three grid points, and one result.
        assert len(newest.series(f"train/{path}/level_01/step")) == 3
        assert len([d for (d,) in newest.series(f"level/{path}/diverged")]) == 1 + (
            path == "ticket"
        )
    assert len(newest.series("level/ticket_minus_random_reinit/test_accuracy")) == 1


def test_what_is_damaged_is_shown_when_it_is_computed_again(
    tmp_path: Path,
    lth_run: Callable[..., RunFolder],
    logs: Logs,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small = ["seeds=[0]", "levels=1", "baseline=[random_reinit]"]
    folder = lth_run(tmp_path, *small, "sink=[console]")
    (ticket,) = references(folder, level=1, variant="ticket")
    damaged = FileStore(tmp_path).folder(ticket.training).path / "metrics.parquet"
    damaged.write_bytes(b"")
    lth_run(tmp_path, *small, "sink.wandb.mode=offline")
    assert "W&B: " not in capsys.readouterr().out
    log = logs(tmp_path)["s0-0"]
    assert len(log.series("train/ticket/level_01/step")) == 3
    assert [v[0] for v in log.series("level", "level/ticket/test_accuracy")] == [0, 1]


def test_a_diverged_training_is_at_chance(
    tmp_path: Path, lth_run: Callable[..., RunFolder]
) -> None:
    folder = lth_run(tmp_path, "seeds=[0]", "levels=0", "sink=[console]", "optimizer.lr=1e30")
    (reference,) = folder.references()
    assert stored(folder, reference).status == "diverged"
    messages = Mirror(folder, "none").level("a-run", [reference], {place(reference)})
    (row,) = [m for m in messages if m["do"] == "log"][-1]["rows"]
    assert row["level/ticket/test_accuracy"] == 1 / stored(folder, reference).done["num_classes"]
    assert row["level/ticket/diverged"] == 1


# What can be set


@pytest.mark.parametrize(
    ("mode", "said", "resolved"),
    [
        ("auto", "", "auto"),
        ("auto", "offline", "offline"),
        ("auto", "disabled", "disabled"),
        ("auto", "dryrun", "offline"),
        ("online", "disabled", "online"),
        ("disabled", "online", "disabled"),
    ],
)
def test_the_mode_is_the_option_then_the_environment(
    mode: str, said: str, resolved: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", said)
    assert Wandb(mode=mode).options().mode == resolved


def test_project_and_entity_are_the_option_then_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    assert Wandb().options().project == "lth"
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    monkeypatch.setenv("WANDB_ENTITY", "them")
    assert (Wandb().options().project, Wandb().options().entity) == ("theirs", "them")
    mine = Wandb(project="mine", entity="me").options()
    assert (mine.project, mine.entity) == ("mine", "me")


def test_unknown_values_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="mode: got 'onlin', allowed: auto, offline, online"):
        Wandb(mode="onlin")
    with pytest.raises(ValueError, match="artifacts: got 'some', allowed: all, masks, none"):
        Wandb(artifacts="some")
    monkeypatch.setenv("WANDB_MODE", "onlin")
    with pytest.raises(LinkError, match="WANDB_MODE: got 'onlin', allowed: online, offline"):
        Wandb().options()
