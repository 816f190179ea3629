"""``python -m analysis.report RUN... [--open] [--pdf]``: a page to read, and every figure as files.

Written into the run's ``report/``: ``report.html`` (self-contained, needs no
network), and ``<figure>.png`` and ``<figure>.csv`` of each figure. Several runs
are compared in one page in the store's ``report/``.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import compare, plot
from analysis.evidence import Evidence, evidence
from analysis.figure import Figure, Subject, percent
from analysis.frame import COLUMNS, LocateError, locate
from analysis.page import Page
from analysis.render_png import save
from analysis.words import describe, question
from lth.store.run_folder import RunFolder
from lth.store.stored import DamagedError


def plots() -> list[Any]:
    """The modules of ``analysis/plot`` in the order in which a report shows them."""
    names = [m.name for m in pkgutil.iter_modules(plot.__path__)]
    modules = [importlib.import_module(f"analysis.plot.{name}") for name in names]
    return sorted(modules, key=lambda m: m.ORDER)


def write(folder: RunFolder, proof: Evidence | None = None, *, pdf: bool = False) -> Path:
    """Write one run's report; gives the page. DamagedError names a damaged file."""
    proof = proof or evidence(folder)
    subject = Subject(folder, proof)
    figures = [f for f in (module.draw(subject) for module in plots()) if f is not None]
    page = _page(folder, proof, figures)
    folder.report.mkdir(parents=True, exist_ok=True)
    _save(folder.report, figures, pdf=pdf)
    proof.trainings[COLUMNS].to_csv(folder.report / "compare.csv", index=False)
    (folder.report / "compare.txt").write_text(compare.summary(proof) + "\n")
    path = folder.report / "report.html"
    path.write_text(page.html())
    return path


def _save(folder: Path, figures: Sequence[Figure], *, pdf: bool) -> None:
    for figure in figures:
        save(figure, folder / f"{figure.name}.png", pdf=pdf)
        figure.data.to_csv(folder / f"{figure.name}.csv", index=False)


def _page(folder: RunFolder, proof: Evidence, figures: Sequence[Figure]) -> Page:
    config = folder.config()
    info = folder.info() or {"invocations": [{}]}
    name = info["invocations"][-1].get("experiment") or f"run {folder.run_id}"
    page = Page(f"Lottery tickets: {name}")
    page.add("p", question(config, proof.settings["verdict_against"]), kind="question")
    page.add("p", proof.verdict, kind="verdict")
    page.add_list(compare.finding_lines(proof))
    page.add_table(results(proof))
    page.add(
        "p",
        "Test accuracy in %, mean ± half of the 95 % interval over seeds; differences are paired "
        "by seed.",
        kind="soft",
    )
    page.add("h2", "Setting")
    page.add_facts(describe(config))
    for figure in figures:
        page.add_figure(figure)
    if not any(f.name == "instability" for f in figures):
        page.add("h2", "Instability")
        page.add("p", f"Not measured. python -m analysis.connect {folder.run_id} does.")
    page.add("h2", "Provenance")
    page.add_facts(provenance(folder, proof, info))
    page.add("p", "The command that makes it again:")
    page.add("pre", command(info["invocations"][-1]))
    return page


def results(proof: Evidence) -> pd.DataFrame:
    """The table of a report: one row per level."""
    accuracy = proof.accuracy.set_index(["level", "variant"])
    difference = proof.difference.set_index(["level", "against"])
    early = proof.early_stop.set_index(["level", "variant"])
    rows = []
    for level, tickets in proof.trainings[proof.trainings["variant"] == "ticket"].groupby("level"):
        row = {"level": level, "density": percent(tickets["density"].mean()), "n": len(tickets)}
        row |= {v: _cell(accuracy, (level, v), signed=False) for v in proof.variants}
        row |= {
            f"ticket − {v}": _cell(difference, (level, v), signed=True) for v in proof.variants[1:]
        }
        stop = early.loc[(level, "ticket")]
        row["early stop"] = "–" if pd.isna(stop["median"]) else f"{stop['median']:.0f}"
        row["censored"] = f"{stop['censored']} of {stop['trainings']}"
        rows.append(row)
    return pd.DataFrame(rows)


def _cell(table: pd.DataFrame, key: Any, *, signed: bool) -> str:
    return compare.cell(table, key, signed=signed).replace("+-", "±").replace("-", "−")


def provenance(folder: RunFolder, proof: Evidence, info: dict[str, Any]) -> list[tuple[str, str]]:
    """Where the numbers come from."""
    data, last = proof.trainings, info["invocations"][-1]
    numerics = data["numerics"].nunique()
    versions = ", ".join(f"{k} {v}" for k, v in (last.get("versions") or {}).items())
    return [
        ("Run", folder.run_id),
        ("Data digest", str(info.get("data", "?"))[:16]),
        ("Trainings", f"{len(data)} ({proof.diverged} diverged), {data['seed'].nunique()} seeds"),
        ("Engine", ", ".join(sorted(set(data["engine"])))),
        ("Device", ", ".join(sorted(set(data["device"])))),
        ("Numerics", "the same in all trainings" if numerics == 1 else f"{numerics} kinds"),
        ("Commit", str(last.get("commit") or "not a checkout")),
        ("Versions", versions),
        ("Machine", str(last.get("machine"))),
        ("Last run", str(last.get("time"))),
    ]


def command(invocation: dict[str, Any]) -> str:
    """The command of an invocation, ready for a shell."""
    given = invocation.get("command") or []
    return shlex.join(["python", "-m", "lth.run", *given[1:]])


def main(arguments: Sequence[str] | None = None) -> int:
    """Write reports; 0 done, 1 a stored file is damaged, 2 an argument is at fault."""
    from analysis.report_sweep import write_runs

    parser = argparse.ArgumentParser(prog="python -m analysis.report", description=__doc__)
    parser.add_argument("run", nargs="+", metavar="RUN", help="folder, run_id prefix, or store")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    parser.add_argument("--pdf", action="store_true", help="figures as PDF too")
    parser.add_argument("--store", default="results", help="where run_id prefixes are looked up")
    options = parser.parse_args(arguments)
    try:
        folders = locate(options.run, options.store)
        pages = [write(folder, pdf=options.pdf) for folder in folders if any(folder.references())]
        if not pages:
            raise LocateError("RUN: no stored trainings yet, allowed: runs with finished trainings")
        if len(pages) > 1:
            pages.append(write_runs(folders))
    except LocateError as error:
        print(error, file=sys.stderr)
        return 2
    except DamagedError as damage:
        print(f"damaged: {damage}; run the same lth.run command to recompute", file=sys.stderr)
        return 1
    for page in pages:
        print(page)
    if options.open:
        import webbrowser

        webbrowser.open(pages[-1].resolve().as_uri())
    return 0


if __name__ == "__main__":
    sys.exit(main())
