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

  // A chart of one panel takes the page's width. Panels side by side wrap to as many columns as have room.
  function fit(spec, width) {
    const panel = (s) => (s.mark || s.layer) && !["row", "column", "facet"].some((name) => s.encoding && s.encoding[name]);
    if (panel(spec)) {
      if (spec.width === undefined || spec.width > width) spec.width = "container";
      return spec;
    }
    const column = spec.facet && !spec.facet.row && (spec.facet.column || (spec.facet.field && spec.facet));
    const parts = spec.hconcat || spec.concat;
    const inner = column ? [spec.spec] : parts || spec.vconcat;
    if (!inner || !inner.every(panel)) return spec;
    const values = (spec.data && spec.data.values) || (spec.datasets && spec.data && spec.datasets[spec.data.name]);
    const number = column && values ? new Set(values.map((row) => row[column.field])).size : inner.length;
    const columns = spec.vconcat ? 1 : Math.max(1, Math.min(number, Math.floor(width / 260)));
    for (const part of inner) part.width = Math.max(120, Math.floor(width / columns) - 64);
    if (column) {
      spec.facet = column;
      spec.columns = columns;
    } else if (parts) {
      delete spec.hconcat;
      spec.concat = parts;
      spec.columns = columns;
    }
    return spec;
  }

  async function draw(chart, mode) {
    const { element } = chart;
    const width = element.parentElement.clientWidth;
    const config = structuredClone(themes[mode]);
    config.legend.columns = Math.max(1, Math.floor(width / 190));
    if (chart.view) chart.view.finalize();
    try {
      chart.view = await vegaEmbed(element, fit(structuredClone(chart.spec), width), {
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
