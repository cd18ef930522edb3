// Keeps the table of plans fresh, ranks again while a slider moves, and sends switches with the token.
"use strict";
(() => {
  const live = document.getElementById("live");
  const form = document.getElementById("suppose");
  const answer = document.getElementById("supposed");
  const dialog = document.getElementById("ask-token");
  let token = null; // for as long as the page is open, and nowhere else

  async function part(url) {
    const response = await fetch(url);
    if (!response.ok) {
      const body = await response.json().catch(() => null);
      throw new Error(body ? body.error.message : `${response.status}`);
    }
    return response.text();
  }

  async function refresh() {
    live.innerHTML = await part("/console/plans"); // the service's own page, with all text escaped
    document.documentElement.dataset.refreshed = String(Date.now());
  }

  setInterval(() => {
    if (!document.hidden && !live.contains(document.activeElement)) refresh().catch(() => {});
  }, 1000 * Number(live.dataset.every));

  // -- what if --------------------------------------------------------------------------------------------------------

  const slider = (field) => form.querySelector(`[data-of=${field}]`);
  const box = (field) => form.elements[field];

  function choose() {
    const option = form.elements.plan.selectedOptions[0];
    if (!option) return;
    const plan = JSON.parse(option.dataset.plan);
    for (const field of ["weight", "bias"]) {
      Object.assign(slider(field), { min: plan[`${field}_low`], max: plan[`${field}_high`] });
      slider(field).value = box(field).value = plan[field];
    }
    box("on").checked = plan.on;
  }

  let asked = 0;
  async function suppose() {
    const number = ++asked;
    answer.classList.add("waiting");
    const query = new URLSearchParams(new FormData(form));
    if (!query.has("on")) query.set("on", "false");
    try {
      const html = await part(`/console/what-if?${query}`);
      if (number === asked) answer.innerHTML = html;
    } catch (error) {
      if (number === asked) {
        answer.textContent = error.message;
        answer.classList.add("failed");
      }
      return;
    } finally {
      if (number === asked) answer.classList.remove("waiting");
    }
    answer.classList.remove("failed");
  }

  let timer;
  form.addEventListener("input", (event) => {
    if (event.target.name === "plan") choose();
    const field = event.target.dataset.of;
    if (field) box(field).value = Number(Number(event.target.value).toPrecision(4));
    else if (event.target.type === "number") slider(event.target.name).value = event.target.value;
    clearTimeout(timer);
    timer = setTimeout(suppose, 120);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    suppose();
  });
  choose();

  // -- switches -------------------------------------------------------------------------------------------------------

  function askToken() {
    return new Promise((resolve) => {
      const field = dialog.querySelector("input");
      field.value = "";
      dialog.returnValue = "";
      dialog.addEventListener("close", () => resolve(dialog.returnValue === "send" ? field.value : null), { once: true });
      dialog.showModal();
    });
  }

  live.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-switch]");
    if (!button) return;
    token = token || (await askToken());
    if (!token) return;
    button.disabled = true;
    const response = await fetch("/switches", {
      method: "POST",
      headers: { "content-type": "application/json", authorization: `Bearer ${token}`, "x-actor": "console" },
      body: JSON.stringify({ plan: button.dataset.switch || null, on: button.dataset.on === "true" }),
    });
    if (response.ok) {
      await refresh();
      return;
    }
    if (response.status === 401) token = null;
    const body = await response.json().catch(() => null);
    button.disabled = false;
    button.insertAdjacentElement("afterend", Object.assign(document.createElement("small"), {
      className: "failed",
      textContent: body ? body.error.message : `${response.status}`,
    }));
  });
})();
