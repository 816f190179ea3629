(async () => {
  const body = document.body;
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const packed = document.getElementById("plotly").textContent.trim();
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const style = getComputedStyle(document.documentElement);
  const css = name => style.getPropertyValue(name).trim();

  // On a dark page the same colours, lightened; data and hover texts stay as they are.
  const shown = colour => {
    if (!dark || !/^#[0-9a-f]{6}([0-9a-f]{2})?$/i.test(colour)) return colour;
    const mixed = [1, 3, 5].map(i => Math.round(parseInt(colour.slice(i, i + 2), 16) * .65 + 89));
    return "#" + mixed.map(v => v.toString(16).padStart(2, "0")).join("") + colour.slice(7);
  };
  const recolour = trace => {
    if (trace.line?.color) trace.line.color = shown(trace.line.color);
    if (trace.marker?.color) trace.marker.color = shown(trace.marker.color);
    if (trace.fillcolor) trace.fillcolor = shown(trace.fillcolor);
    return trace;
  };

  let drawn = 0;
  const draw = plot => {
    const figure = figures[plot.id];
    if (!figure || plot.dataset.drawn) return;
    plot.dataset.drawn = "1";
    const off = new Set([...plot.closest("figure").querySelectorAll(".keys button.off")]
      .map(button => button.dataset.name));
    const axis = {gridcolor: css("--line"), linecolor: css("--line"), tickfont: {size: 12}};
    const layout = {...figure.layout, autosize: true, dragmode: false,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: {family: css("--sans"), size: 12.5, color: css("--soft")},
      hoverlabel: {align: "left", font: {family: css("--sans"), size: 13}},
      xaxis: {...axis, ...figure.layout.xaxis, fixedrange: true},
      yaxis: {...axis, ...figure.layout.yaxis, fixedrange: true}};
    const data = figure.data.map(trace => ({...recolour(trace), visible: !off.has(trace.name)}));
    // The figures lie beside the page as files, so no tool bar is needed (nor its cloud button).
    const config = {displayModeBar: false, displaylogo: false, responsive: true,
      modeBarButtonsToRemove: ["sendChartToCloud"]};
    Plotly.newPlot(plot, data, layout, config);
    body.dataset.drawn = String(++drawn);
  };

  for (const button of document.querySelectorAll(".keys button")) button.onclick = () => {
    const off = button.classList.toggle("off");
    button.setAttribute("aria-pressed", String(!off));
    for (const plot of button.closest("figure").querySelectorAll(".plot[data-drawn]")) {
      const hit = plot.data.flatMap((t, i) => t.name === button.dataset.name ? [i] : []);
      if (hit.length) Plotly.restyle(plot, {visible: !off}, hit);
    }
  };

  const selects = [...document.querySelectorAll(".filters select")];
  const filter = () => {
    for (const cell of document.querySelectorAll("[data-cell]")) {
      const own = JSON.parse(cell.dataset.cell);
      cell.classList.toggle("hidden", selects.some(s => s.value !== "" && s.name in own && own[s.name] !== s.value));
    }
    const rows = [...document.querySelectorAll("tr[data-cell]")];
    const count = document.querySelector(".filters output");
    if (count) count.textContent =
      `${rows.filter(row => !row.classList.contains("hidden")).length} of ${rows.length} cells`;
    for (const plot of document.querySelectorAll(".panel:not(.hidden) .plot[data-drawn]"))
      Plotly.Plots.resize(plot);
  };
  for (const select of selects) select.onchange = filter;

  try {
    const bytes = Uint8Array.from(atob(packed), c => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  } catch (error) {
    document.getElementById("failure").classList.remove("hidden");
    throw error;
  }
  // Each figure is drawn when it comes near the window.
  const plots = [...document.querySelectorAll(".plot")];
  const watch = new IntersectionObserver(entries => {
    for (const entry of entries) if (entry.isIntersecting) {
      watch.unobserve(entry.target);
      draw(entry.target);
    }
  }, {rootMargin: "500px"});
  for (const plot of plots) watch.observe(plot);
  addEventListener("beforeprint", () => plots.forEach(draw));
  body.dataset.ready = String(plots.length);
})();
