"""HTML: one self-contained page that works from a file, without a network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape

import pandas as pd

from analysis.figure import Figure
from analysis.render_html import describe, legend, plotly_source

STYLE = """
:root { --ink:#1b2430; --soft:#5b6673; --line:#dde2e8; --paper:#fff; --wash:#f5f7f9; --key:#0072B2 }
@media (prefers-color-scheme: dark) {
  :root { --ink:#e6eaef; --soft:#a3aeba; --line:#36404b; --paper:#161b21; --wash:#1f262e;
          --key:#56B4E9 } }
* { box-sizing:border-box }
body { margin:0; background:var(--paper); color:var(--ink);
  font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif }
main { max-width:1060px; margin:0 auto; padding:28px 20px 60px }
h1 { font-size:1.7rem; line-height:1.25; margin:.2em 0 .3em; overflow-wrap:anywhere }
h2 { font-size:1.2rem; margin:2.4em 0 .3em }
p { margin:.5em 0 } .soft, figcaption { color:var(--soft) }
.question { font-size:1.05rem; color:var(--soft); max-width:46em }
.verdict { border-left:5px solid var(--key); background:var(--wash); padding:12px 18px;
  margin:20px 0; font-size:1.1rem; border-radius:0 6px 6px 0 }
ul.findings { padding-left:1.2em; max-width:52em } ul.findings li { margin:.3em 0 }
dl { display:grid; grid-template-columns:max-content 1fr; gap:4px 18px; margin:10px 0 }
dt { color:var(--soft) } dd { margin:0; overflow-wrap:anywhere }
.scroll { overflow-x:auto; margin:12px 0 }
table { border-collapse:collapse; font-variant-numeric:tabular-nums; font-size:.9rem }
th,td { padding:5px 10px; text-align:right; white-space:nowrap;
  border-bottom:1px solid var(--line) }
th { font-weight:600; border-bottom:2px solid var(--line) }
td.text,th.text { text-align:left } td.text { white-space:normal; min-width:6em }
td.text:nth-last-child(2) { min-width:20em } tr.failed td { color:#b3261e }
figure { margin:10px 0 0; padding:0 }
figcaption { font-size:.92rem; max-width:52em; margin-top:8px }
.panels { display:grid; grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));
  gap:8px; margin-top:8px }
.panels.one { grid-template-columns:1fr } .panels.small {
  grid-template-columns:repeat(auto-fit,minmax(min(100%,280px),1fr)) }
.panel { min-width:0; min-height:280px }
.keys { display:flex; flex-wrap:wrap; gap:6px 8px; margin-top:8px }
.keys button { font:inherit; font-size:.88rem; color:inherit; background:none; cursor:pointer;
  border:1px solid var(--line); border-radius:14px; padding:2px 11px 2px 9px }
.keys button i { display:inline-block; width:10px; height:10px; border-radius:5px;
  margin-right:6px }
.keys button.off { opacity:.4 } .keys button:focus-visible { outline:2px solid var(--key) }
pre { background:var(--wash); padding:12px 14px; border-radius:6px; font-size:.85rem;
  white-space:pre-wrap; overflow-wrap:anywhere }
.filters { display:flex; flex-wrap:wrap; gap:10px 18px; margin:12px 0 }
.filters label { font-size:.9rem; color:var(--soft) }
.filters select { font:inherit; margin-left:6px; color:var(--ink); background:var(--paper);
  border:1px solid var(--line); border-radius:5px; padding:2px 6px }
details { margin:.6em 0 } summary { cursor:pointer; color:var(--soft) }
.hidden { display:none }
"""

SCRIPT = """
(async () => {
  const bytes = Uint8Array.from(atob(document.getElementById("plotly").textContent.trim()),
                                c => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const style = getComputedStyle(document.documentElement);
  const value = name => style.getPropertyValue(name).trim();
  // The figures lie beside the page as files, so no tool bar is needed.
  const config = {displayModeBar: false, responsive: true};
  const axis = {gridcolor: value("--line"), zerolinecolor: value("--line"),
    linecolor: value("--line")};
  for (const [id, {data, layout}] of Object.entries(figures)) {
    Object.assign(layout, {paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: {family: "inherit", size: 12.5, color: value("--ink")}, dragmode: false,
      hoverlabel: {align: "left"}});
    layout.xaxis = {...axis, ...layout.xaxis, fixedrange: true};
    layout.yaxis = {...axis, ...layout.yaxis, fixedrange: true};
    await Plotly.newPlot(id, data, layout, config);
    await new Promise(done => setTimeout(done));
  }
  for (const button of document.querySelectorAll(".keys button")) button.onclick = () => {
    const off = button.classList.toggle("off");
    button.setAttribute("aria-pressed", String(!off));
    for (const plot of button.closest("figure").querySelectorAll(".panel")) {
      const hit = plot.data.flatMap((t, i) => t.name === button.dataset.name ? [i] : []);
      if (hit.length) Plotly.restyle(plot, {visible: !off}, hit);
    }
  };
  const selects = [...document.querySelectorAll(".filters select")];
  const filter = () => {
    for (const row of document.querySelectorAll("[data-cell]")) {
      const own = JSON.parse(row.dataset.cell);
      row.classList.toggle("hidden",
        selects.some(s => s.value !== "" && own[s.name] !== s.value));
    }
    for (const plot of document.querySelectorAll(".panel")) Plotly.Plots.resize(plot);
  };
  for (const select of selects) select.onchange = filter;
  document.body.dataset.drawn = String(Object.keys(figures).length);
})();
"""


POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
"""The page may load nothing at all: a browser refuses, and says so on its console."""


class Page:
    """Parts of a page in their order; ``html`` puts them together."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._parts: list[str] = [f"<h1>{escape(title)}</h1>"]
        self._figures: dict[str, object] = {}

    def add(self, tag: str, text: str, *, kind: str = "") -> None:
        """A paragraph, heading or other plain element."""
        own = f' class="{kind}"' if kind else ""
        self._parts.append(f"<{tag}{own}>{escape(text)}</{tag}>")

    def add_list(self, items: Sequence[str]) -> None:
        """Findings, one a line."""
        lines = "".join(f"<li>{escape(item)}</li>" for item in items)
        self._parts.append(f'<ul class="findings">{lines}</ul>')

    def add_facts(self, facts: Sequence[tuple[str, str]]) -> None:
        """Pairs of a name and a value."""
        lines = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts)
        self._parts.append(f"<dl>{lines}</dl>")

    def add_table(
        self,
        table: pd.DataFrame,
        *,
        text: Sequence[str] = (),
        cells: Sequence[dict[str, str]] | None = None,
        failed: Sequence[bool] | None = None,
    ) -> None:
        """A table of ready texts; ``cells`` gives each row its filter values."""
        kinds = {c: ' class="text"' if c in text else "" for c in table.columns}
        head = "".join(f"<th{kinds[c]}>{escape(str(c))}</th>" for c in table.columns)
        body = []
        for index, row in enumerate(table.itertuples(index=False)):
            own = _data(cells[index]) if cells is not None else ""
            own += ' class="failed"' if failed is not None and failed[index] else ""
            values = zip(table.columns, row, strict=True)
            line = "".join(f"<td{kinds[c]}>{escape(str(v))}</td>" for c, v in values)
            body.append(f"<tr{own}>{line}</tr>")
        self._parts.append(
            f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{''.join(body)}</tbody></table></div>"
        )

    def add_filters(self, choices: Mapping[str, Sequence[str]]) -> None:
        """One select per key; rows and panels that carry other values are hidden."""
        selects = "".join(
            f'<label>{escape(key)}<select name="{escape(key)}"><option value="">all</option>'
            + "".join(f"<option>{escape(v)}</option>" for v in values)
            + "</select></label>"
            for key, values in choices.items()
        )
        self._parts.append(f'<div class="filters">{selects}</div>')

    def add_figure(self, figure: Figure) -> None:
        """A figure with its heading, keys and caption."""
        shape = {1: " one"}.get(len(figure.panels), "")
        panels = [self._panel(figure.name, i, d) for i, d in enumerate(describe(figure))]
        self._parts.append(
            f'<h2 id="{escape(figure.name)}">{escape(figure.title)}</h2><figure>'
            f"{_keys(figure)}<div class='panels{shape}'>{''.join(panels)}</div>"
            f"<figcaption>{escape(figure.caption)}</figcaption></figure>"
        )

    def add_multiples(
        self, title: str, figures: Sequence[tuple[Figure, dict[str, str]]], caption: str
    ) -> None:
        """One small panel per figure, each with the filter values of its cell."""
        panels = [
            self._panel(f"{figure.name}_{index}", 0, describe(figure)[0], cell)
            for index, (figure, cell) in enumerate(figures)
        ]
        keys = _keys(figures[0][0])
        self._parts.append(
            f"<h2>{escape(title)}</h2><figure>{keys}<div class='panels small'>"
            f"{''.join(panels)}</div><figcaption>{escape(caption)}</figcaption></figure>"
        )

    def _panel(
        self, name: str, index: int, described: object, cell: dict[str, str] | None = None
    ) -> str:
        key = f"figure-{name}-{index}"
        self._figures[key] = described
        return f'<div class="panel" id="{key}"{_data(cell) if cell is not None else ""}></div>'

    def html(self) -> str:
        """The whole page."""
        # "</script" inside a script element would end it.
        figures = json.dumps(self._figures, allow_nan=False).replace("<", "\\u003c")
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<link rel="icon" href="data:,">'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
            f"<title>{escape(self._title)}</title><style>{STYLE}</style></head>"
            f"<body><main>{''.join(self._parts)}</main>"
            f'<script type="application/json" id="figures">{figures}</script>'
            f'<script type="text/plain" id="plotly">{plotly_source()}</script>'
            f"<script>{SCRIPT}</script></body></html>\n"
        )


def _data(cell: dict[str, str]) -> str:
    return f' data-cell="{escape(json.dumps(cell, sort_keys=True))}"'


def _keys(figure: Figure) -> str:
    known = legend(figure)
    if len(known) < 2:
        return ""
    buttons = "".join(
        f'<button type="button" aria-pressed="true" data-name="{escape(label)}">'
        f'<i style="background:{colour}"></i>{escape(label)}</button>'
        for label, colour in known
    )
    return f'<div class="keys">{buttons}</div>'
