"""The report: every figure from a stored run, and the page in a real browser."""

from __future__ import annotations

import json
import pkgutil
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import plot, report
from analysis.evidence import evidence
from analysis.figure import COLOURS, Figure, Panel, Series, Subject, colour
from analysis.page import Page
from analysis.plot import inputs, layers, overlap, weights
from analysis.render_html import describe
from analysis.render_png import save
from analysis.report_sweep import write_sweep
from analysis.words import describe as words
from lth.store.run_folder import RunFolder

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
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
    assert len(set(COLOURS.values())) == len(COLOURS)
    for name in ("accuracy", "early_stop", "curves"):
        for panel in figures[name].panels:
            for series in panel.series:
                if series.label in COLOURS:
                    assert series.colour == COLOURS[series.label]
    variants = ["ticket", "random_reinit", "random_reinit+dense_k", "mine", "yours"]
    colours = [colour(v, variants) for v in variants]
    assert len(set(colours)) == len(colours)


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
    # A shuffled mask overlaps its ticket as chance has it.
    shuffled = overlap.draw(subject).data.query("variant == 'shuffled_mask'")  # type: ignore[union-attr]
    assert shuffled["ratio"].mean() == pytest.approx(1.0, abs=0.02)
    histogram = weights.draw(subject).data.query("level == 0 and when == 'start'")  # type: ignore[union-attr]
    width = histogram["weight"].diff().iloc[1]
    assert (histogram["frequency"] * width).sum() == pytest.approx(1.0)
    assert inputs.draw(subject) is not None and layers.draw(subject) is not None


def test_the_run_wrote_its_page_and_files(small_run: RunFolder, figures: dict[str, Figure]) -> None:
    names = {p.name for p in small_run.report.iterdir()}
    assert {"report.html", "compare.csv", "compare.txt"} <= names
    for name in figures:
        assert {f"{name}.png", f"{name}.csv"} <= names
    text = (small_run.report / "report.html").read_text()
    proof = evidence(small_run)
    assert proof.verdict.split(".")[0] in text
    assert "python -m lth.run levels=2 train_steps=60it" in text
    # Nothing is loaded from elsewhere, and the page forbids it (what it forbids it also logs).
    assert "default-src 'none'" in text
    outside = re.sub(r'<script type="text/plain" id="plotly">.*?</script>', "", text)
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:)""", outside)
    assert "http://" not in outside and "https://" not in outside and "@import" not in outside


def test_what_users_write_is_escaped() -> None:
    page = Page("<b>")
    page.add("p", "a < b & c")
    page.add_facts([("<i>", '"x"')])
    series = Series(label="</script><b>", x=[1], y=[1], colour="#000000")
    other = Series(label="x", x=[1], y=[1], colour="#000000")
    panel = Panel(series=[series, other])
    page.add_figure(Figure(name="n", title="<u>", caption="&", panels=[panel], data=pd.DataFrame()))
    text = page.html()
    for tag in ("<b>", "<i>", "<u>"):
        assert tag not in text
    assert "\\u003c/script>\\u003cb>" in text


def test_a_configuration_in_words() -> None:
    config = {
        "dataset": {"name": "MNIST", "normalize": "unit"},
        "model": {"name": "mine.Net", "width": 3},
        "criterion": {"name": "magnitude"},
        "schedule": {"name": "Geometric", "rate": 0.45},
        "train_steps": "500it",
        "rewind_step": "20it",
        "exclude": ["output"],
    }
    lines = dict(words(config))
    assert lines["Data"] == "MNIST (normalize unit)"
    assert lines["Network"] == "Net (width 3)"
    assert lines["Pruning schedule"] == "Geometric (rate 0.45)"
    assert lines["Training"].startswith("500it in batches of 60")
    assert "rewound to step 20it" in lines["Training"]
    assert lines["Also"] == "exclude = [output]"


def test_a_sweep_has_one_page_with_its_failed_cells(small_run: RunFolder, tmp_path: Path) -> None:
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
    assert "2 cells, 1 of them failed." in text
    assert "levels: &lt;no&gt;" in text
    assert '<select name="levels">' in text
    assert (page.parent / "accuracy_00.png").exists() and (page.parent / "cells.csv").exists()
    if CHROMIUM:
        assert browse(page, tmp_path)["drawn"] == 1


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_it_renders_in_a_browser(
    small_run: RunFolder, figures: dict[str, Figure], tmp_path: Path
) -> None:
    found = browse(small_run.report / "report.html", tmp_path)
    assert found["drawn"] == sum(len(f.panels) for f in figures.values())
    assert found["plots"] == found["drawn"]
    assert found["console"] == []
    assert found["scroll_width"] <= 390


def browse(page: Path, tmp_path: Path) -> dict[str, object]:
    """What headless Chromium makes of a page: plots, console messages, its width."""
    copy = tmp_path / "page.html"
    # Drawn on a phone's width; the body notes how wide its content is.
    probe = (
        "<script>addEventListener('load', () => { const t = setInterval(() => {"
        "if (!document.body.dataset.drawn) return; clearInterval(t);"
        "document.body.dataset.wide = document.querySelector('main').scrollWidth }, 50) })"
        "</script><style>main { width: 390px }</style></body>"
    )
    copy.write_text(page.read_text().replace("</body>", probe))
    assert CHROMIUM is not None
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=20000", "--dump-dom",
    ]  # fmt: skip
    done = subprocess.run(
        [CHROMIUM, *flags, copy.as_uri()], capture_output=True, text=True, timeout=180, check=True
    )
    dom = done.stdout

    def number(name: str) -> int:
        hit = re.search(rf'data-{name}="(\d+)"', dom)
        return int(hit.group(1)) if hit else -1

    return {
        "drawn": number("drawn"),
        "plots": dom.count('class="plot-container plotly"'),
        "console": [line for line in done.stderr.splitlines() if "CONSOLE" in line],
        "scroll_width": number("wide"),
    }


def test_the_command_and_its_faults(
    small_run: RunFolder, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert report.main([str(small_run.path), "--pdf"]) == 0
    assert capsys.readouterr().out.strip() == str(small_run.report / "report.html")
    assert (small_run.report / "accuracy.pdf").exists()
    assert report.main(["nothing", "--store", str(tmp_path)]) == 2
    assert "RUN: got 'nothing'" in capsys.readouterr().err
