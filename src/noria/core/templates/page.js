// Draws every chart of the page with Vega-Embed, in the theme of the page, and again when width or colour scheme changes.
"use strict";
(() => {
  const themes = JSON.parse(document.getElementById("themes").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const charts = [...document.querySelectorAll(".drawing")].map((element) => ({
    element,
    spec: JSON.parse(element.parentElement.nextElementSibling.textContent),
    view: null,
  }));

  const rowsOf = (spec) => (spec.data && (spec.data.values || (spec.datasets || {})[spec.data.name])) || [];
  const valuesOf = (spec, field) => [...new Set(rowsOf(spec).map((row) => row[field]))];
  const isPanel = (spec) =>
    (spec.mark || spec.layer) && !["row", "column", "facet"].some((name) => spec.encoding && spec.encoding[name]);

  // A chart of one panel takes the page's width. Panels side by side wrap to as many columns as have room.
  function fit(spec, width) {
    if (isPanel(spec)) {
      if (spec.width === undefined || spec.width > width) spec.width = "container";
      return;
    }
    const facet = spec.facet && !spec.facet.row && (spec.facet.column || (spec.facet.field && spec.facet));
    const beside = spec.hconcat || spec.concat;
    const panels = facet ? [spec.spec] : beside || spec.vconcat;
    if (!panels || !panels.every(isPanel)) return;
    const number = facet ? valuesOf(spec, facet.field).length || 1 : panels.length;
    const columns = spec.vconcat ? 1 : Math.max(1, Math.min(number, Math.floor(width / 260)));
    for (const panel of panels) panel.width = Math.max(120, Math.floor(width / columns) - 64);
    if (facet) Object.assign(spec, { facet, columns });
    if (beside) {
      delete spec.hconcat;
      Object.assign(spec, { concat: beside, columns });
    }
  }

  // How many names of a legend fit side by side.
  function legendColumns(spec, width) {
    const pick = /"color":\{[^{}]*"field":"([^"]+)"/.exec(JSON.stringify(spec));
    const longest = Math.max(8, ...(pick ? valuesOf(spec, pick[1]) : []).map((name) => String(name).length));
    return Math.max(1, Math.floor((width - 50) / (7 * longest + 36)));
  }

  async function draw(chart, mode) {
    const { element } = chart;
    const width = element.parentElement.clientWidth;
    const config = structuredClone(themes[mode]);
    config.legend.columns = legendColumns(chart.spec, width);
    const spec = structuredClone(chart.spec);
    fit(spec, width);
    if (chart.view) chart.view.finalize();
    try {
      chart.view = await vegaEmbed(element, spec, {
        mode: "vega-lite",
        renderer: "svg",
        ast: true, // expressions are interpreted: the page's policy forbids compiling them
        config,
        tooltip: { theme: mode },
        actions: { export: true, source: false, compiled: false, editor: false },
        downloadFileName: element.dataset.name,
      });
      element.dataset.drawn = mode;
    } catch (error) {
      chart.view = null;
      element.textContent = `This chart could not be drawn: ${error.message}`;
      element.classList.add("error");
      console.error(error);
    }
  }

  let drawing = Promise.resolve();
  function drawAll() {
    drawing = drawing.then(async () => {
      const mode = dark.matches ? "dark" : "light";
      for (const chart of charts) await draw(chart, mode);
      document.documentElement.dataset.drawn = mode;
    });
  }

  let width = document.body.clientWidth;
  let timer;
  new ResizeObserver(() => {
    if (document.body.clientWidth === width) return;
    width = document.body.clientWidth;
    clearTimeout(timer);
    timer = setTimeout(drawAll, 150);
  }).observe(document.body);
  dark.addEventListener("change", drawAll);
  drawAll();
})();
