"""The report: every figure from a stored run, and the page in a real browser."""

from __future__ import annotations

import json
import pkgutil
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import hypergeom

from analysis import compare, plot, report
from analysis.axis import y_axis
from analysis.evidence import evidence
from analysis.figure import COLOURS, RAMP, SPARE, Figure, Panel, Series, Subject, colour
from analysis.page import Page
from analysis.plot import inputs, instability, layers, overlap
from analysis.render_html import describe
from analysis.render_png import save
from analysis.report_run import commands, page_of, results
from analysis.report_sweep import Cell, _flat, varied, write_sweep
from analysis.verdict import gap
from lth.store.run_folder import RunFolder

NAMES = sorted(m.name for m in pkgutil.iter_modules(plot.__path__))
NEEDS_MORE = {"instability"}
"""Plots of what a plain run does not measure."""


@pytest.fixture(scope="module")
def subject(small_run: RunFolder) -> Subject:
    return Subject(small_run, evidence(small_run))


@pytest.fixture(scope="module")
def figures(subject: Subject) -> dict[str, Figure]:
    drawn = {m.__name__.rpartition(".")[2]: m.draw(subject) for m in report.plots()}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def test_every_plot_draws_a_run(figures: dict[str, Figure]) -> None:
    assert set(figures) == set(NAMES) - NEEDS_MORE
    assert len(figures) >= 9
    for name, figure in figures.items():
        assert figure.name == name
        assert figure.title and figure.caption.endswith(".") and not figure.data.empty
        assert all(p.series or p.image is not None for p in figure.panels)


def test_figures_are_valid_json_and_pictures(figures: dict[str, Figure], tmp_path: Path) -> None:
    for figure in figures.values():
        json.dumps(describe(figure), allow_nan=False)
        save(figure, tmp_path / f"{figure.name}.png", pdf=True)
        assert (tmp_path / f"{figure.name}.png").read_bytes()[:4] == b"\x89PNG"
        assert (tmp_path / f"{figure.name}.pdf").read_bytes()[:4] == b"%PDF"


def test_a_variant_has_one_colour(figures: dict[str, Figure]) -> None:
    assert len({*COLOURS.values(), *SPARE}) == len(COLOURS) + len(SPARE)
    for name in ("accuracy", "early_stop", "curves"):
        for panel in figures[name].panels:
            for series in panel.series:
                if series.label in COLOURS:
                    assert series.colour == COLOURS[series.label]
    variants = ["ticket", "random_reinit", "random_reinit+dense_k", "mine", "yours"]
    colours = [colour(v, variants) for v in variants]
    assert len(set(colours)) == len(colours)
    assert colour("rigl", ["ticket", "rigl", "static"]) != COLOURS["static"]


def test_the_numbers_drawn_are_the_runs(subject: Subject, figures: dict[str, Figure]) -> None:
    layer = figures["layers"].data
    trained = subject.rows(2)[0]
    kept = layer[(layer["level"] == 2) & (layer["seed"] == trained.seed)]["kept"].sum()
    assert kept == trained.remaining_weights
    # The image is the share of living first-layer weights at each input.
    image = figures["inputs"].data
    first = [next(iter(subject.stored(r.training).mask().values())) for r in subject.rows(2)]
    wanted = np.mean([m.float().mean(0).numpy() for m in first], 0)
    own = image[image["level"] == 2].sort_values(["row", "column"])["share_kept"]
    assert own.to_numpy() == pytest.approx(wanted)
    drawn = np.asarray(figures["inputs"].panels[-1].image)
    assert drawn.flatten() == pytest.approx(100 * wanted)
    # A shuffled mask overlaps its ticket as chance has it.
    shuffled = figures["overlap"].data.query("variant == 'shuffled_mask' and layer == 'all'")
    assert len(shuffled) == 6
    assert shuffled["ratio"].mean() == pytest.approx(1.0, abs=0.02)
    assert (abs(shuffled["shared"] - shuffled["chance"]) < 4 * shuffled["chance_sd"]).all()
    histogram = figures["weights"].data.query("level == 0 and when == 'start'")
    width = histogram["weight"].diff().iloc[1]
    assert (histogram["frequency"] * width).sum() == pytest.approx(1.0)


def test_accuracy_is_drawn_with_its_seeds_and_intervals(figures: dict[str, Figure]) -> None:
    figure = figures["accuracy"]
    series = figure.panels[0].series
    assert [label for label, _ in figure.keys] == [
        "ticket", "random_reinit", "shuffled_mask", "dense",
    ]  # fmt: skip
    assert sum(s.kind == "faint" for s in series) == 9  # three seeds of each
    ticket = next(s for s in series if s.label == "ticket" and s.kind == "line")
    table = figure.data.query("variant == 'ticket'").sort_values("level")
    assert list(ticket.y) == pytest.approx(list(100 * table["mean"]))
    assert list(ticket.low or []) == pytest.approx(list(100 * table["low"]))


def test_censored_early_stops_are_open(subject: Subject, figures: dict[str, Figure]) -> None:
    data = subject.proof.trainings
    points = [s for s in figures["early_stop"].panels[0].series if s.kind == "points"]
    assert sum(len(s.x) for s in points) == len(data)
    assert sum(sum(s.hollow or []) for s in points) == data["early_stop_censored"].sum() > 0


def test_chance_is_hypergeometric() -> None:
    for a, b, size in [(3, 4, 10), (6, 1, 8), (20, 5, 64), (0, 5, 9)]:
        law = hypergeom(size, a, b)
        assert overlap.chance(a, b, size) == pytest.approx((law.mean(), law.var()))
    # By hand: one of two each, shared half of the time.
    assert overlap.chance(1, 1, 2) == (0.5, 0.25)
    assert overlap.chance(7, 7, 7) == (7.0, 0.0) and overlap.chance(1, 1, 1) == (1.0, 0.0)


def test_a_level_whose_finding_diverged_has_no_ticket_and_is_drawn(
    small_run: RunFolder, subject: Subject
) -> None:
    """Then only what should have found its mask is there."""
    data = subject.proof.trainings
    ticket = (data["variant"] == "ticket") & (data["level"] == 2)
    data = data[(data["level"] < 2) | ticket]
    data = data.assign(
        variant=data["variant"].where(data["level"] < 2, "rigl"),
        status=data["status"].where(data["level"] < 2, "diverged"),
    )
    proof = evidence(small_run, data)
    own = Subject(small_run, proof)
    for module in shown():
        figure = module.draw(own)
        assert figure is None or json.dumps(describe(figure), allow_nan=False)
    figure = next(m.draw(own) for m in report.plots() if m.__name__.endswith("accuracy"))
    (line,) = (s for s in figure.panels[0].series if s.label == "rigl" and s.kind == "line")
    assert list(line.x) == pytest.approx([data[data["level"] == 2]["density"].mean()])
    assert "nan" not in results(proof).to_string()
    assert "nan" not in compare.table(proof)


def test_where_input_weights_are() -> None:
    linear = np.array([[1, 0, 1, 0], [1, 0, 0, 0]], bool)
    assert inputs.place(linear, [1, 2, 2]).tolist() == [[1.0, 0.0], [0.5, 0.0]]  # type: ignore[union-attr]
    # Two colour channels of one row and two columns: their mean.
    assert inputs.place(linear, [2, 1, 2]).tolist() == [[0.75, 0.0]]  # type: ignore[union-attr]
    assert inputs.place(linear, [1, 3, 3]) is None
    assert inputs.place(linear, None) is None
    kernels = np.zeros((2, 1, 1, 2), bool)
    kernels[0, 0, 0, 1] = True
    assert inputs.place(kernels, None).tolist() == [[0.0, 0.5]]  # type: ignore[union-attr]


def test_deep_networks_show_some_layers_first_and_last_among_them() -> None:
    rows = [
        {"layer": f"l{i}.weight", "level": level, "density": 0.5**level, "layer_density": 0.5}
        for level in range(2)
        for i in range(20)
    ]
    series = layers._layers(pd.DataFrame(rows))
    assert len(series) == len(RAMP) == len({s.colour for s in series})
    assert series[0].label == "l0" and series[-1].label == "l19"
    assert not set(RAMP) & {*COLOURS.values(), *SPARE}


def test_html_and_png_have_the_same_axes(figures: dict[str, Figure]) -> None:
    (panel,) = [d for d in describe(figures["layers"]) if d["data"][0]["name"] != "fc1"]
    own = y_axis(figures["layers"].panels[1])
    assert own is not None
    assert panel["layout"]["yaxis"]["ticktext"] == list(own.texts)
    assert panel["layout"]["xaxis"]["range"][0] > panel["layout"]["xaxis"]["range"][1]
    heat = describe(figures["inputs"])[0]["data"][0]
    # Plotly ignores zmin where zmax is missing.
    assert heat["zmin"] == 0 and heat["zmax"] == pytest.approx(
        max(v for row in heat["z"] for v in row)
    )


def test_instability_is_shown_where_it_was_measured(
    small_run: RunFolder, subject: Subject, tmp_path: Path
) -> None:
    assert instability.draw(subject) is None
    assert f"analysis.connect {small_run.run_id}" in page_of(small_run, subject.proof, []).html()
    place = {"rewind_step": 0, "density": 1.0, "level": 0}
    more = {"train_barrier": 0.0, "l2": 1.0, "cosine": 0.1, "disagreement": 0.0}
    pairs = [
        {**place, **more, "kind": kind, "seed": seed, "test_barrier": barrier + 0.02 * seed}
        for kind, barrier in (("order", 0.01), ("inits", 0.5))
        for seed in (0, 1)
    ]
    lines = [
        {**place, "kind": "order", "seed": 0, "alpha": a, "test_error": 0.1 + 0.1 * a}
        for a in (0.0, 0.5, 1.0)
    ]
    root = tmp_path / "results"
    shutil.copytree(small_run.store_root, root, symlinks=True)
    copy = RunFolder(root, small_run.run_id)
    pd.DataFrame(pairs).to_csv(copy.report / "connect.csv", index=False)
    pd.DataFrame(lines).to_csv(copy.report / "connect_lines.csv", index=False)
    figure = instability.draw(Subject(copy, subject.proof))
    assert figure is not None
    found = {s.label: s for s in figure.panels[0].series}
    assert list(found["copies (other data order)"].y) == pytest.approx([2.0])
    assert list(found["other initialisations"].y) == pytest.approx([51.0])
    assert list(figure.panels[1].series[0].y) == pytest.approx([10.0, 15.0, 20.0])
    page = page_of(copy, subject.proof, [figure]).html()
    assert 'id="instability"' in page and "analysis.connect" not in page


def test_the_run_wrote_its_page_and_files(small_run: RunFolder, figures: dict[str, Figure]) -> None:
    names = {p.name for p in small_run.report.iterdir()}
    assert {"report.html", "compare.csv", "compare.txt"} <= names
    for name in figures:
        assert {f"{name}.png", f"{name}.csv"} <= names
    text = (small_run.report / "report.html").read_text()
    proof = evidence(small_run)
    assert proof.verdict.split(".")[0].replace(" %", "\u00a0%") in text
    assert "python -m lth.run levels=2 train_steps=60it" in text
    assert f"python -m analysis.connect {small_run.run_id}" in text
    order = [text.index(f'<h2 id="{module.__name__.rpartition(".")[2]}"') for module in shown()]
    assert order == sorted(order)
    question, setting, verdict = (
        text.index(part) for part in ('class="question"', "All settings", 'class="verdict"')
    )
    assert question < setting < verdict < order[0]
    # Nothing is loaded from elsewhere, and the page forbids it (what it forbids it also logs).
    assert "default-src 'none'" in text
    outside = re.sub(r'<script type="text/plain" id="plotly">.*?</script>', "", text)
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:|#)""", outside)
    assert "http://" not in outside and "https://" not in outside and "@import" not in outside


def shown() -> list[Any]:
    """The plots in the order of a report."""
    return [m for m in report.plots() if m.__name__.rpartition(".")[2] not in NEEDS_MORE]


def test_every_command_that_made_a_run_is_told_once() -> None:
    calls = [["run.py", "levels=2"], ["run.py", "levels=3", "seeds=[0, 1]"], ["run.py", "levels=2"]]
    info = {"invocations": [{"command": c} for c in calls]}
    assert commands([info, info]) == [
        "python -m lth.run levels=2",
        "python -m lth.run levels=3 'seeds=[0, 1]'",
    ]


def test_what_users_write_is_escaped() -> None:
    page = Page("<b>", kind="<s>", meta=["<em>"])
    page.add("p", "a < b & c")
    page.add_facts([("<i>", '"x"')], summary="<q>", source="<pre2>")
    page.add_filters({"<k>": ["<v>", '"']}, 1)
    page.add_verdict("<v1>", number="<v2>", unit="<v3>")
    page.add_list(["<l>"])
    table = pd.DataFrame({"<c>": ["<d>"]})
    page.add_table(table, cells=[{"<x>": '"<y>'}])
    series = Series(label="</script><b>", x=[1], y=[1], colour="#000000", hover=["</script><b>"])
    other = Series(label="x", x=[1], y=[1], colour="#000000")
    panel = Panel(series=[series, other], title="<h>", y="<y>")
    page.add_figure(Figure(name="n", title="<u>", caption="&", panels=[panel], data=pd.DataFrame()))
    text = page.html()
    for tag in ("b", "i", "u", "s", "em", "q", "pre2", "k", "v", "v1", "v2", "v3", "l", "c", "d",
                "x", "y", "h"):  # fmt: skip
        assert f"<{tag}>" not in text, tag
    assert "\\u003c/script>\\u003cb>" in text


def test_a_sweep_has_one_page_with_its_failed_cells(small_run: RunFolder) -> None:
    folder = small_run.store_root / "sweep" / "mine"
    folder.mkdir(parents=True)
    cells = [
        {"overrides": ["levels=2"], "run_id": small_run.run_id, "status": "done", "reason": None},
        {"overrides": ["levels=-1"], "run_id": None, "status": "failed", "reason": "levels: <no>"},
    ]
    for index, cell in enumerate(cells):
        (folder / f"{index}.json").write_text(json.dumps(cell))
    page = write_sweep(folder)
    text = page.read_text()
    assert "2 cells that differ in levels; 1 of them failed." in text
    assert "levels: &lt;no&gt;" in text
    assert '<select name="levels">' in text
    assert {p.name for p in page.parent.iterdir()} == {
        "report.html", "accuracy.png", "accuracy.csv", "cells.csv",
    }  # fmt: skip
    table = pd.read_csv(page.parent / "cells.csv").set_index("levels")
    assert table.loc[-1, "outcome"] == "levels: <no>"
    found = gap(evidence(small_run).trainings, evidence(small_run).settings)
    if found is None:
        assert table.loc[2, "gap"] == "–"
    else:
        assert table.loc[2, "gap"].startswith(f"{100 * found.result.mean:+.2f}".replace("-", "−"))


def test_cells_of_one_run_share_a_panel_that_names_no_single_one(small_run: RunFolder) -> None:
    folder = small_run.store_root / "sweep" / "shared"
    folder.mkdir(parents=True)
    for seed in (0, 1, 2):
        record = {"overrides": [f"seeds=[{seed}]"], "run_id": small_run.run_id}
        record |= {"status": "done", "reason": None}
        (folder / f"{seed}.json").write_text(json.dumps(record))
    page = write_sweep(folder)
    data = pd.read_csv(page.parent / "accuracy.csv")
    assert set(data["cell"]) == {small_run.run_id}
    assert not data.duplicated(["variant", "level"]).any()
    assert len(pd.read_csv(page.parent / "cells.csv")) == 3


def test_a_damaged_cell_does_not_hide_the_others(small_run: RunFolder, tmp_path: Path) -> None:
    root = tmp_path / "results"
    shutil.copytree(small_run.store_root, root, symlinks=True)
    folder = root / "sweep" / "two"
    folder.mkdir(parents=True)
    copy = RunFolder(root, small_run.run_id)
    next(copy.references())
    victim = root / "training"
    for path in victim.rglob("done.json"):
        path.write_text("{}")
        break
    for index in range(2):
        record = {
            "overrides": [f"seeds=[{index}]"],
            "run_id": copy.run_id if index else None,
            "status": "done" if index else "failed",
            "reason": None if index else "no",
        }
        (folder / f"{index}.json").write_text(json.dumps(record))
    text = write_sweep(folder).read_text()
    assert "damaged: " in text and "2 of them failed" in text


def test_several_runs_are_told_apart_by_what_they_set(small_run: RunFolder) -> None:
    config = small_run.config()
    assert _flat(config)["model"] == "LeNet300100"
    assert _flat(config)["optimizer.lr"] == "0.003"
    one, two = (
        Cell(values=v, status="done", reason="", run_id="r", subject=None)
        for v in ({"lr": "0.1", "a": "1"}, {"lr": "0.03", "a": "1", "k": "50it"})
    )
    assert varied([one, two]) == {"lr": ["0.03", "0.1"], "k": ["50it", "-"]}


def test_the_command_and_its_faults(
    small_run: RunFolder, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    root = tmp_path / "results"
    shutil.copytree(small_run.store_root, root, symlinks=True)
    copy = RunFolder(root, small_run.run_id)
    assert report.main([str(copy.path), "--pdf"]) == 0
    assert capsys.readouterr().out.strip() == str(copy.report / "report.html")
    assert (copy.report / "accuracy.pdf").exists()
    assert report.main(["nothing", "--store", str(tmp_path)]) == 2
    assert "RUN: got 'nothing'" in capsys.readouterr().err
    (root / "blank" / "run").mkdir(parents=True)
    assert report.main([str(root / "blank")]) == 2
    assert "RUN: no stored trainings yet" in capsys.readouterr().err
    next(root.rglob("training/*/*/mask.safetensors")).write_bytes(b"")
    assert report.main([str(copy.path)]) == 1
    assert "damaged: " in capsys.readouterr().err


def test_several_runs_and_sweeps_get_a_page_of_their_own(
    small_run: RunFolder, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    stores = [tmp_path / "one", tmp_path / "two"]
    for root in stores:
        shutil.copytree(small_run.store_root, root, symlinks=True)
    sweep = stores[0] / "sweep" / "mine"
    shutil.rmtree(sweep, ignore_errors=True)
    sweep.mkdir(parents=True)
    record = {"overrides": ["levels=2"], "run_id": small_run.run_id, "status": "done"}
    (sweep / "0.json").write_text(json.dumps({**record, "reason": None}))
    names = [
        str(sweep),
        *(str(RunFolder(r, small_run.run_id).path) for r in stores),
        *map(str, stores),
    ]
    assert report.main([*names, "--pdf"]) == 0
    pages = [Path(line) for line in capsys.readouterr().out.splitlines()]
    runs = [RunFolder(r, small_run.run_id).report / "report.html" for r in stores]
    assert pages == [sweep / "report" / "report.html", *runs, stores[0] / "report" / "report.html"]
    assert all((p.parent / "accuracy.pdf").exists() for p in pages)
    assert "2 runs of one" in pages[-1].read_text()


def test_masks_of_another_network_have_no_overlap() -> None:
    """A small dense network beside the ticket: other shapes under the same names."""
    masks = {"own": {"fc": torch.ones(4, 3)}, "small": {"fc": torch.ones(2, 3)}}
    rows = {v: SimpleNamespace(seed=0, training=v) for v in masks}
    subject: Any = SimpleNamespace(
        levels=[0, 1],
        variants=["ticket", "small"],
        rows=lambda level, variant="own": [rows[variant]],
        stored=lambda training: SimpleNamespace(weight_mask=lambda: masks[training]),
    )
    assert list(overlap._within(subject)) == []
