"use strict";
(() => {
  const evidence = JSON.parse(document.getElementById("evidence").textContent);
  const aside = document.getElementById("source");
  const box = aside.querySelector("div");
  const element = (name, text, kind) => {
    const made = document.createElement(name);
    if (text) made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };
  const quote = (text, value) => {
    const made = document.createElement("blockquote");
    const place = value ? text.indexOf(value) : -1;
    if (place < 0) { made.textContent = text; return made; }
    made.append(text.slice(0, place), element("mark", value), text.slice(place + value.length));
    return made;
  };
  const show = (id) => {
    const entry = evidence.ids[id];
    if (!entry) return;
    box.replaceChildren(element("strong", entry.head));
    if (entry.value) box.append(element("div", entry.value));
    if (entry.text) box.append(quote(entry.text, entry.value));
    for (const operand of entry.operands || []) {
      const one = evidence.ids[operand];
      if (!one) continue;
      const row = element("div");
      const link = element("button", `${one.head} = ${one.value}`, "n");
      link.type = "button"; link.dataset.id = operand;
      row.append(link); box.append(row);
    }
    if (entry.more) box.append(element("div", `+ ${entry.more}`));
    for (const n of entry.refs || []) {
      const row = element("div", "", "where");
      const link = element("a", evidence.references[n]);
      link.href = `#ref${n}`; row.append(link); box.append(row);
    }
    if (entry.where) box.append(element("div", entry.where, "where"));
    aside.hidden = false;
  };
  for (const chart of document.querySelectorAll(".chart")) {
    const cells = evidence.charts[chart.dataset.chart] || {};
    for (const mark of chart.querySelectorAll("[aria-roledescription]")) {
      const target = cells[mark.getAttribute("aria-label")];
      if (target) mark.dataset.cell = target;
    }
  }
  document.addEventListener("click", (event) => {
    const number = event.target.closest("button.n");
    if (number) return show(number.dataset.id);
    const mark = event.target.closest("[data-cell]");
    if (mark) return show(mark.dataset.cell);
    if (event.target.closest("aside > button")) aside.hidden = true;
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") aside.hidden = true; });
})();
