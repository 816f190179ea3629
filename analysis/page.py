"""HTML: one self-contained page that works from a file, without a network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import pandas as pd

from analysis.figure import NEUTRAL, Figure
from analysis.render_html import describe, plotly_source

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
"""The page may load nothing at all: a browser refuses, and says so on its console."""

NO_SCRIPT = "The figures need JavaScript; they also lie beside this page as PNG and CSV files."
TOO_OLD = (
    "This browser is too old to draw the figures (it lacks DecompressionStream, in all browsers "
    "since 2023); they also lie beside this page as PNG and CSV files."
)


class Page:
    """Parts of a page in their order; ``html`` puts them together."""

    def __init__(self, title: str, *, kind: str = "", meta: Sequence[str] = ()) -> None:
        self._title = title
        self._parts: list[str] = [
            f'<p class="eyebrow">{escape(kind)}</p>' if kind else "",
            f"<h1>{escape(title)}</h1>",
            f'<p class="meta">{escape(" · ".join(meta))}</p>' if meta else "",
        ]
        self._headings: list[tuple[str, str]] = []
        self._figures: dict[str, object] = {}

    def add(self, tag: str, text: str, *, kind: str = "") -> None:
        """A paragraph or other plain element."""
        own = f' class="{kind}"' if kind else ""
        self._parts.append(f"<{tag}{own}>{_text(text)}</{tag}>")

    def add_heading(self, name: str, text: str) -> None:
        """A section's heading, which the contents name too."""
        self._headings.append((name, text))
        self._parts.append(f'<h2 id="{escape(name)}">{escape(text)}</h2>')

    def add_contents(self) -> None:
        """Links to all sections of the page, also those added later."""
        self._parts.append(CONTENTS)

    def add_verdict(
        self, text: str, *, number: str = "", unit: str = "", colour: str = NEUTRAL
    ) -> None:
        """What the run found, with its number where there is one, in the winner's colour."""
        shown = f"<strong>{escape(number)}</strong><span>{escape(unit)}</span>" if number else ""
        self._parts.append(
            f'<div class="verdict" style="--own:{escape(colour)}">'
            f"{f'<div>{shown}</div>' if shown else ''}<p>{_text(text)}</p></div>"
        )

    def add_list(self, items: Sequence[str]) -> None:
        """Findings, one a line."""
        lines = "".join(f"<li>{_text(item)}</li>" for item in items)
        self._parts.append(f'<ul class="findings">{lines}</ul>')

    def add_facts(
        self,
        facts: Sequence[tuple[str, str]],
        *,
        colours: Mapping[str, str] | None = None,
        summary: str = "",
        source: str = "",
    ) -> None:
        """Names and values; behind ``summary`` where that is given, with a ``source`` text."""
        lines = "".join(
            f"<dt>{_dot(colours[k]) if colours else ''}{escape(k)}</dt><dd>{_text(v)}</dd>"
            for k, v in facts
        )
        text = f"<dl>{lines}</dl>" + (f"<pre>{escape(source)}</pre>" if source else "")
        if summary:
            text = f"<details><summary>{escape(summary)}</summary>{text}</details>"
        self._parts.append(text)

    def add_table(
        self,
        table: pd.DataFrame,
        *,
        text: Sequence[str] = (),
        long: Sequence[str] = (),
        wide: Sequence[str] = (),
        cells: Sequence[Mapping[str, str]] | None = None,
        failed: Sequence[bool] | None = None,
    ) -> None:
        """A table of ready texts; ``cells`` gives each row its filter values.

        ``text`` columns are set to the left, ``long`` ones may break; on a phone,
        where a row becomes a card, ``wide`` ones take more room.
        """
        groups = {"text": text, "long": long, "wide": wide}
        kinds = {c: " ".join(k for k, own in groups.items() if c in own) for c in table}
        head = "".join(f'<th class="{kinds[c]}">{escape(str(c))}</th>' for c in table.columns)
        body = []
        for index, row in enumerate(table.itertuples(index=False)):
            own = _data(cells[index]) if cells is not None else ""
            own += ' class="failed"' if failed is not None and failed[index] else ""
            line = "".join(
                f'<td class="{kinds[c]}{" none" * (str(v) == "–")}" data-label="{escape(str(c))}">'
                f"{escape(str(v))}</td>"
                for c, v in zip(table.columns, row, strict=True)
            )
            body.append(f"<tr{own}>{line}</tr>")
        self._parts.append(
            f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{''.join(body)}</tbody></table></div>"
        )

    def add_filters(self, choices: Mapping[str, Sequence[str]], count: int) -> None:
        """One select per key; rows and panels that carry other values are hidden."""
        if not choices:
            return
        selects = "".join(
            f'<label>{escape(key)}<select name="{escape(key)}"><option value="">all</option>'
            + "".join(f'<option value="{escape(v)}">{escape(v)}</option>' for v in values)
            + "</select></label>"
            for key, values in choices.items()
        )
        shown = f"<output>{count} of {count} cells</output>"
        self._parts.append(f'<div class="filters">{selects}{shown}</div>')

    def add_figure(
        self, figure: Figure, *, cells: Sequence[Mapping[str, str]] | None = None
    ) -> None:
        """A figure with its heading, keys and caption; ``cells`` makes its panels small ones."""
        self.add_heading(figure.name, figure.title)
        panels = "".join(
            self._panel(figure, index, described, cells[index] if cells is not None else None)
            for index, described in enumerate(describe(figure))
        )
        kind = "panels small" if cells is not None else "panels"
        kind += " one" if len(figure.panels) == 1 and cells is None else ""
        columns = min(figure.columns, len(figure.panels))
        files = escape(f"{figure.name}.png · {figure.name}.csv")
        self._parts.append(
            f'<figure>{_keys(figure)}<div class="{kind}" style="--columns:{columns}">{panels}</div>'
            f"<figcaption>{_text(figure.caption)}</figcaption>"
            f'<p class="files">{files}</p></figure>'
        )

    def _panel(
        self, figure: Figure, index: int, described: object, cell: Mapping[str, str] | None
    ) -> str:
        panel, key = figure.panels[index], f"plot-{figure.name}-{index}"
        self._figures[key] = described
        kind = "panel" if panel.image is None else "panel image"
        title = f"<h3>{escape(panel.title)}</h3>" if panel.title else ""
        unit = f"<p>{escape(panel.y)}</p>" if panel.y else ""
        label = escape(f"{figure.title}: {panel.title or panel.y}")
        return (
            f'<div class="{kind}"{_data(cell) if cell is not None else ""}>{title}{unit}'
            f'<div class="plot" id="{escape(key)}" role="img" aria-label="{label}"></div></div>'
        )

    def html(self) -> str:
        """The whole page."""
        here = Path(__file__).parent
        style, script = ((here / f"page.{kind}").read_text() for kind in ("css", "js"))
        # "</script" inside a script element would end it.
        figures = json.dumps(self._figures, allow_nan=False).replace("<", "\\u003c")
        links = "".join(f'<a href="#{escape(n)}">{escape(t)}</a>' for n, t in self._headings)
        parts = "\n".join(self._parts).replace(CONTENTS, f"<nav>{links}</nav>")
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<link rel="icon" href="data:,">'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
            f"<title>{escape(self._title)}</title><style>{style}</style></head>"
            f"<body><main>{parts}\n"
            f'<noscript><p class="failure">{NO_SCRIPT}</p></noscript>'
            f'<p id="failure" class="failure hidden">{TOO_OLD}</p></main>'
            f'<script type="application/json" id="figures">{figures}</script>'
            f'<script type="text/plain" id="plotly">{plotly_source()}</script>'
            f"<script>{script}</script></body></html>\n"
        )


CONTENTS = "<!-- contents -->"


def _text(text: str) -> str:
    """Escaped; a number and its % sign stay on one line."""
    return escape(text).replace(" %", "\u00a0%")


def _data(cell: Mapping[str, str]) -> str:
    return f' data-cell="{escape(json.dumps(cell, sort_keys=True))}"'


def _dot(colour: str) -> str:
    return f'<i style="--own:{escape(colour)}"></i>'


def _keys(figure: Figure) -> str:
    if len(figure.keys) < 2:
        return ""
    buttons = "".join(
        f'<button type="button" aria-pressed="true" data-name="{escape(label)}">'
        f"{_dot(colour)}{escape(label)}</button>"
        for label, colour in figure.keys
    )
    return f'<div class="keys">{buttons}</div>'
