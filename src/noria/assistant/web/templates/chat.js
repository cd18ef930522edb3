// What makes the page quicker to use. Every form works without it: it sends them, and puts the server's answer in place.
"use strict";
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const composer = $("#composer");
  const live = $("#live");
  const own = { headers: { "x-part": "1" }, credentials: "same-origin" };
  const LONGEST = 2048;
  const SMALL = 1.5 * 2 ** 20;
  let chosen = null; // the picture that goes with the next message
  let source = null; // events of the answer that is under way

  // -- before and after: one picture over the other, under a range input --------------------------------------------
  function slide(root) {
    for (const pair of root.querySelectorAll(".pair[data-slider]:not(.slides)")) {
      const range = document.createElement("input");
      const bar = document.createElement("i");
      Object.assign(range, { type: "range", min: 0, max: 100, value: 50 });
      range.setAttribute("aria-label", pair.dataset.slider);
      bar.className = "bar";
      range.addEventListener("input", () => pair.style.setProperty("--at", `${range.value}%`));
      for (const link of pair.querySelectorAll("a")) link.tabIndex = -1;
      pair.classList.add("slides");
      pair.append(bar, range);
    }
  }

  // -- forms whose answer is a part of the page ---------------------------------------------------------------------
  document.addEventListener("submit", async (event) => {
    const form = event.target;
    const part = form.closest("[data-part]");
    if (!part) return;
    event.preventDefault();
    const fields = new FormData(form, event.submitter);
    const answer = await fetch(form.action, { method: "POST", body: fields, ...own }).catch(() => null);
    if (!answer || !answer.ok) return form.submit();
    const made = new DOMParser().parseFromString(await answer.text(), "text/html").body.firstElementChild;
    const pressed = event.submitter && event.submitter.value;
    part.replaceWith(made);
    const again = [...made.querySelectorAll("button, summary")].find((one) => one.value === pressed);
    (again || $("summary", made)).focus();
  });

  if (!composer) return;
  const box = $("#message");
  const note = $("#note");
  const preview = $("#chosen");

  const say = (text) => {
    note.textContent = text;
    note.hidden = !text;
  };
  const announce = (text) => {
    const line = document.createElement("p");
    line.textContent = text;
    live.append(line);
  };
  const nearEnd = () => innerHeight + scrollY > document.documentElement.scrollHeight - 260;
  const toEnd = () => scrollTo({ top: document.documentElement.scrollHeight, behavior: "instant" });
  const grow = () => {
    if (CSS.supports("field-sizing", "content")) return;
    box.style.height = "auto";
    box.style.height = `${box.scrollHeight}px`;
  };

  // -- the picture --------------------------------------------------------------------------------------------------
  async function smaller(file) {
    if (file.size <= SMALL || file.type === "image/gif") return file;
    try {
      const picture = await createImageBitmap(file);
      const scale = Math.min(1, LONGEST / Math.max(picture.width, picture.height));
      const canvas = document.createElement("canvas");
      canvas.width = Math.round(picture.width * scale);
      canvas.height = Math.round(picture.height * scale);
      const context = canvas.getContext("2d");
      context.fillStyle = "#fff"; // as the server lays transparency on white
      context.fillRect(0, 0, canvas.width, canvas.height);
      context.drawImage(picture, 0, 0, canvas.width, canvas.height);
      const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.9));
      return blob ? new File([blob], "picture.jpg", { type: "image/jpeg" }) : file;
    } catch {
      return file; // the server says what is wrong with it
    }
  }

  async function choose(file) {
    if (!file) return;
    if (!/^image\/(png|jpeg|webp|gif)$/.test(file.type)) return say(composer.dataset.kind);
    const taken = await smaller(file);
    if (taken.size > Number(composer.dataset.most)) return say(composer.dataset.large);
    say("");
    forget();
    chosen = taken;
    $("img", preview).src = URL.createObjectURL(taken);
    $("span", preview).textContent = file.name;
    preview.hidden = false;
    const about = $("#subject");
    if (about) about.hidden = true;
    ready();
    box.focus();
  }

  function forget() {
    if (chosen) URL.revokeObjectURL($("img", preview).src);
    chosen = null;
    preview.hidden = true;
    $("img", preview).removeAttribute("src");
    for (const input of composer.querySelectorAll("input[type=file]")) input.value = "";
    const about = $("#subject");
    if (about) about.hidden = false;
    ready();
  }

  const ready = () => ($(".send", composer).disabled = Boolean(source) || !(box.value.trim() || chosen));

  for (const input of composer.querySelectorAll("input[type=file]"))
    input.addEventListener("change", () => choose(input.files[0]));
  $("button", preview).addEventListener("click", () => {
    forget();
    box.focus();
  });
  document.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
    if (!file) return;
    event.preventDefault();
    choose(file);
  });
  let over = 0;
  const carries = (event) => [...event.dataTransfer.types].includes("Files");
  const dropping = (on) => document.body.classList.toggle("dropping", on);
  document.addEventListener("dragenter", (event) => carries(event) && dropping(++over > 0));
  document.addEventListener("dragleave", (event) => carries(event) && dropping(--over > 0));
  document.addEventListener("dragover", (event) => carries(event) && event.preventDefault());
  document.addEventListener("drop", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    dropping((over = 0) > 0);
    choose(event.dataTransfer.files[0]);
  });
  document.addEventListener("click", (event) => {
    const link = event.target.closest("[data-use]");
    if (!link) return;
    event.preventDefault();
    forget();
    let chip = $("#subject");
    if (!chip) {
      chip = document.createElement("label");
      chip.className = "chip";
      chip.id = "subject";
      chip.innerHTML = '<input type="checkbox" name="about"><img alt=""><span></span>';
      $("span", chip).textContent = composer.dataset.about;
      $("#fields").append(chip);
    }
    Object.assign($("input", chip), { value: link.dataset.use, checked: true });
    $("img", chip).src = `${composer.dataset.base}/files/${link.dataset.use}`;
    box.focus();
  });

  // -- sending ------------------------------------------------------------------------------------------------------
  box.addEventListener("input", () => {
    grow();
    ready();
  });
  box.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || matchMedia("(pointer: coarse)").matches) return;
    event.preventDefault();
    if (!$(".send", composer).disabled) composer.requestSubmit();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, textarea, select, [contenteditable]")) return;
    event.preventDefault();
    box.focus();
  });

  // The message as it will stand, and a place for the answer, before the server has said anything.
  function optimistic(text, about) {
    const turn = document.createElement("article");
    turn.className = "turn";
    turn.id = "pending";
    turn.innerHTML =
      '<div class="mine"><h2 class="hidden"></h2></div><div class="answer"><div class="body" id="progress" aria-busy="true">' +
      '<p class="wait"><span class="pulse" aria-hidden="true"><i></i><i></i><i></i></span><span></span></p></div></div>';
    const mine = $(".mine", turn);
    $("h2", mine).textContent = composer.dataset.you;
    $(".wait > span:last-child", turn).textContent = composer.dataset.thinking;
    const add = (name, className, content) => {
      const element = document.createElement(name);
      element.className = className;
      if (content) element.textContent = content;
      mine.append(element);
      return element;
    };
    if (chosen) {
      const picture = document.createElement("img");
      picture.src = URL.createObjectURL(chosen);
      picture.alt = composer.dataset.your;
      add("div", "shot", "").append(picture);
    } else if (about) {
      const line = add("p", "about", "");
      const picture = document.createElement("img");
      picture.src = $("#subject img").src;
      picture.alt = "";
      line.append(picture, composer.dataset.about);
    }
    if (text) add("p", "bubble", text).dir = "auto";
    for (const old of document.querySelectorAll("#pending")) old.remove();
    begun(true);
    $("#turns").append(turn);
    toEnd();
    return turn;
  }

  // Whether the conversation has begun: what stands above an empty one makes place.
  function begun(on) {
    for (const one of document.querySelectorAll(".welcome, .ideas")) one.hidden = on;
    if ($(".welcome")) $("#talk").classList.toggle("empty", !on);
  }

  async function send(form, fields, text) {
    say("");
    const about = fields.get("about");
    if (chosen) {
      fields.delete("picture");
      fields.append("picture", chosen, chosen.name);
    }
    const turn = optimistic(text, about);
    const kept = { text: box.value, chosen };
    box.value = "";
    grow();
    forget();
    source = "sending";
    ready();
    announce(live.dataset.working);
    try {
      const answer = await fetch(form.action, { method: "POST", body: fields, ...own });
      const said = await answer.json().catch(() => ({}));
      if (!answer.ok) throw new Error(said.said || (said.error && said.error.message) || composer.dataset.error);
      history.replaceState(null, "", said.address);
      watch(said.events, said.address);
    } catch (error) {
      source = null;
      turn.remove();
      say(error instanceof TypeError ? composer.dataset.error : error.message);
      box.value = box.value || kept.text;
      if (kept.chosen) choose(kept.chosen);
      if (!$("#turns .turn")) begun(false);
      ready();
      box.focus();
    }
  }

  composer.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = box.value.trim();
    if (source || !(text || chosen)) return;
    send(composer, new FormData(composer), text);
  });
  const ideas = $(".ideas");
  if (ideas)
    ideas.addEventListener("submit", (event) => {
      event.preventDefault();
      if (!source) send(ideas, new FormData(ideas, event.submitter), event.submitter.value);
    });

  // -- the answer as it comes about ---------------------------------------------------------------------------------
  function watch(events, address) {
    source = new EventSource(events);
    ready();
    let spoken = 0;
    if (!$(".halt")) halt(events);
    source.addEventListener("progress", (event) => {
      const state = JSON.parse(event.data);
      const follow = nearEnd();
      const place = $("#progress");
      if (place) place.innerHTML = state.html; // made by the server, which escapes it
      spoken = speak(state.words, spoken);
      if (follow) toEnd();
    });
    source.addEventListener("end", () => {
      source.close();
      arrive(address);
    });
    source.addEventListener("error", () => {
      if (source && source.readyState === EventSource.CLOSED) arrive(address);
    });
  }

  // Whole sentences for those who hear the page; half a sentence would be read twice.
  function speak(words, from) {
    if (words.length < from) from = 0;
    const sentences = /[^.!?。！？\n]+[.!?。！？\n]+(?=\s|$)/gu;
    sentences.lastIndex = from;
    for (let match; (match = sentences.exec(words)); from = sentences.lastIndex) announce(match[0].trim());
    return from;
  }

  function halt(events) {
    const form = document.createElement("form");
    const button = document.createElement("button");
    form.method = "post";
    form.action = `${events}/stop`;
    form.className = "halt";
    form.innerHTML = '<input type="hidden" name="token">';
    $("input", form).value = $("[name=token]", composer).value;
    button.className = "button small plain";
    button.textContent = composer.dataset.stop;
    form.append(button);
    $("#pending .answer").append(form);
  }

  async function arrive(address) {
    source = null;
    const answer = await fetch(address, { credentials: "same-origin" }).catch(() => null);
    if (!answer) return say(composer.dataset.error);
    const made = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (!$("#turns", made)) return location.reload();
    const follow = nearEnd();
    for (const name of ["#turns", "#fields", "#side"]) {
      const old = $(name);
      const fresh = $(name, made);
      if (old && fresh) old.replaceWith(fresh);
    }
    document.title = made.title;
    box.placeholder = $("#message", made).placeholder;
    slide($("#turns"));
    announce(live.dataset.done);
    ready();
    const last = $("#turns .turn:last-child");
    if (follow && last) {
      await Promise.all([...last.querySelectorAll("img")].map((one) => one.decode().catch(() => null)));
      if (last.offsetHeight > innerHeight - 240) last.scrollIntoView({ block: "start" });
      else toEnd();
    }
    tell();
  }

  // -- inside of another page: only how high this one is ------------------------------------------------------------
  function tell() {
    if (parent === window) return;
    parent.postMessage({ noria: "height", height: Math.ceil(document.documentElement.scrollHeight) }, "*");
  }

  slide(document);
  if ($("#turns .turn") && (!location.hash || location.hash === "#end")) toEnd();
  grow();
  ready();
  const pending = $("#pending[data-events]");
  if (pending) watch(pending.dataset.events, pending.dataset.address);
  if (parent !== window) new ResizeObserver(tell).observe(document.body);
})();
