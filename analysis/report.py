"""``python -m analysis.report RUN... [--open] [--pdf]``: a page to read, and every figure as files.

Written into the run's ``report/``: ``report.html`` (self-contained, needs no
network), and ``<figure>.png`` and ``<figure>.csv`` of each figure. Several runs
are compared in one page in the store's ``report/``.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis import compare, plot, whole
from analysis.evidence import Evidence, evidence
from analysis.figure import Figure, Subject
from analysis.frame import COLUMNS, LocateError, trained
from analysis.render_png import save
from analysis.report_run import page_of
from analysis.whole import write_csv
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
    page = page_of(folder, proof, figures)
    folder.report.mkdir(parents=True, exist_ok=True)
    _save(folder.report, figures, pdf=pdf)
    write_csv(folder.report / "compare.csv", proof.trainings[COLUMNS])
    whole.write(folder.report / "compare.txt", compare.summary(proof) + "\n")
    path = folder.report / "report.html"
    whole.write(path, page.html())
    return path


def _save(folder: Path, figures: Sequence[Figure], *, pdf: bool) -> None:
    for figure in figures:
        save(figure, folder / f"{figure.name}.png", pdf=pdf)
        write_csv(folder / f"{figure.name}.csv", figure.data)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write reports; 0 done, 1 a stored file is damaged, 2 an argument is at fault."""
    parser = argparse.ArgumentParser(prog="python -m analysis.report", description=__doc__)
    parser.add_argument(
        "run", nargs="+", metavar="RUN", help="a run's or sweep's folder, run_id prefix, or store"
    )
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    parser.add_argument("--pdf", action="store_true", help="figures as PDF too")
    parser.add_argument("--store", default="results", help="where run_id prefixes are looked up")
    options = parser.parse_args(arguments)
    try:
        pages = _write_all(options.run, options.store, pdf=options.pdf)
    except LocateError as error:
        print(error, file=sys.stderr)
        return 2
    except DamagedError as damage:
        print(f"damaged: {damage}; run the same lth.run command to recompute", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"report: cannot be written: {error}", file=sys.stderr)
        return 1
    for page in pages:
        print(page)
    if options.open:
        import webbrowser

        webbrowser.open(pages[-1].resolve().as_uri())
    return 0


def _write_all(names: Sequence[str], store: str, *, pdf: bool) -> list[Path]:
    """Sweeps and runs each get their page; several runs one more that compares them."""
    from analysis.report_sweep import is_sweep, write_runs, write_sweep

    pages = [write_sweep(Path(n), pdf=pdf) for n in names if is_sweep(Path(n))]
    others = [n for n in names if not is_sweep(Path(n))]
    found = trained(others, store) if others else []
    pages += [write(folder, pdf=pdf) for folder in found]
    if len(found) > 1:
        pages.append(write_runs(found, pdf=pdf))
    return pages


if __name__ == "__main__":
    sys.exit(main())
