"""The page of one run: what stands on it, in which order."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import yaml

from analysis import compare, words
from analysis.evidence import Evidence
from analysis.figure import NEUTRAL, Figure, colour, percent
from analysis.page import Page
from analysis.stats import densities
from analysis.verdict import gap
from lth.store.run_folder import RunFolder

MANY = 3
"""Controls whose differences all fit into the table of results."""


def page_of(folder: RunFolder, proof: Evidence, figures: Sequence[Figure]) -> Page:
    """Question, setting, verdict, tables, figures, provenance."""
    config, info = folder.config(), folder.info() or {"invocations": [{}]}
    last = info["invocations"][-1]
    data = proof.trainings
    meta = [
        *([f"experiment {last['experiment']}"] if last.get("experiment") else []),
        f"run {folder.run_id}",
        _count(data["seed"].nunique(), "seed"),
        _count(int(data["level"].max()), "level"),
        str(last.get("time") or "").partition("T")[0],
    ]
    page = Page(words.title(config), kind="Lottery ticket report", meta=[m for m in meta if m])
    page.add("p", words.question(config, proof.settings["verdict_against"]), kind="question")
    page.add("p", words.paragraph(config))
    source = yaml.safe_dump(config, sort_keys=True)
    page.add_facts(words.describe(config), summary="All settings", source=source)
    _add_verdict(page, proof)
    page.add_contents()
    _add_results(page, proof, config)
    for figure in (f for f in figures if f.name != "cost"):
        page.add_figure(figure)
    if not any(f.name == "instability" for f in figures):
        _add_instability(page, folder)
    for figure in (f for f in figures if f.name == "cost"):
        page.add_figure(figure)
    page.add_heading("provenance", "Provenance")
    page.add_facts(provenance(folder, proof, info))
    made = commands([info])
    page.add("p", f"The command{'s' * (len(made) > 1)} that reproduce{'s' * (len(made) == 1)} it:")
    page.add("pre", "\n".join(made))
    return page


def _add_verdict(page: Page, proof: Evidence) -> None:
    found = gap(proof.trainings, proof.settings)
    number, unit, tone = "", "", NEUTRAL
    if found is not None and found.result.n:
        against = str(proof.settings["verdict_against"])
        number = f"{100 * found.result.mean:+.2f}".replace("-", "−")
        unit = f"points, ticket − {against}"
        winners = {"the ticket wins": "ticket", f"{against} wins": against}
        winner = winners.get(found.winner(against))
        tone = colour(winner, proof.variants) if winner else NEUTRAL
    page.add_verdict(proof.verdict, number=number, unit=unit, colour=tone)
    page.add_list([line.replace("+-", "±") for line in compare.other_lines(proof)])


def _add_results(page: Page, proof: Evidence, config: Mapping[str, Any]) -> None:
    page.add_heading("results", "Results")
    facts = [(v, words.variant(v, config)) for v in [*proof.variants, "dense"]]
    page.add_facts(facts, colours={v: colour(v, proof.variants) for v, _ in facts})
    page.add_table(results(proof))
    note = (
        "Test accuracy in %, mean ± half of the 95 % interval over seeds; differences in points, "
        "paired by seed. Early stop: median step, and how many are censored."
    )
    if proof.diverged:
        note += (
            " Diverged trainings enter at chance; difference.csv has the differences without them."
        )
    page.add("p", note, kind="soft")
    if not proof.matching_range.empty:
        page.add_heading("matching", "How sparse it still matches dense")
        page.add_table(matching(proof), text=["within"], long=["within"])
        page.add(
            "p",
            "Certainly: the sparsest level that matches with none undecided before it. Possibly: "
            "the sparsest before the first that does not match. Point rule, as in the papers: the "
            "last level before the first whose mean is lower. Levels are chosen on validation.",
            kind="soft",
        )


def _add_instability(page: Page, folder: RunFolder) -> None:
    """How to measure it."""
    page.add_heading("instability", "Instability")
    page.add("p", "Not measured for this run. This measures it:")
    page.add("pre", f"python -m analysis.connect {folder.run_id}")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def results(proof: Evidence) -> pd.DataFrame:
    """The table of a report: one row per level."""
    accuracy = proof.accuracy.set_index(["level", "variant"])
    difference = proof.difference.set_index(["level", "against"])
    early = proof.early_stop.set_index(["level", "variant"])
    # With many controls a page has room for the verdict's difference alone; a figure has all.
    against = proof.variants[1:]
    if len(against) > MANY:
        against = [v for v in against if v == proof.settings["verdict_against"]]
    density, rows = densities(proof.trainings), []
    for level, part in proof.trainings.groupby("level"):
        tickets = int((part["variant"] == "ticket").sum())
        row = {"level": level, "density": percent(density[level]), "n": tickets}
        row |= {v: _cell(accuracy, (level, v), signed=False) for v in proof.variants}
        row |= {f"ticket − {v}": _cell(difference, (level, v), signed=True) for v in against}
        row["early stop"] = "–"
        if (level, "ticket") in early.index and pd.notna(early.loc[(level, "ticket"), "median"]):
            stop = early.loc[(level, "ticket")]
            row["early stop"] = f"{stop['median']:.0f} ({stop['censored']} of {stop['trainings']})"
        if proof.diverged:
            row["diverged"] = f"{int((part['status'] == 'diverged').sum())} of {len(part)}"
        rows.append(row)
    return pd.DataFrame(rows)


def matching(proof: Evidence) -> pd.DataFrame:
    """How sparse the ticket still matches dense: one row per tolerance."""
    rows = []
    for row in proof.matching_range.itertuples():
        points = f" ({100 * row.epsilon:.2f} points)" if "SD" in row.tolerance else ""
        rows.append(
            {
                "within": f"{row.tolerance}{points}",
                "certainly down to": _density(row.sparsest_certain),
                "possibly down to": _density(row.sparsest_before_failure),
                "papers' point rule": _density(row.point_rule),
            }
        )
    return pd.DataFrame(rows)


def _density(value: float) -> str:
    return "no level" if pd.isna(value) else percent(value)


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


def commands(infos: Sequence[Mapping[str, Any]]) -> list[str]:
    """The commands that made some runs, each once and in their order, ready for a shell."""
    found = [
        shlex.join(["python", "-m", "lth.run", *given[1:]])
        for info in infos
        for invocation in info["invocations"]
        if (given := invocation.get("command"))
    ]
    return list(dict.fromkeys(found))
