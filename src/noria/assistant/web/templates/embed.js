// Embeds the chat in a shop's page: <script src="https://…/chat/embed.js" async></script>
// data-inline puts it where the script stands; data-label names the button; data-open opens it at once.
"use strict";
(() => {
  const script = document.currentScript;
  const origin = new URL(script.src).origin;
  const { inline, label = "Chat", open } = script.dataset;
  const frame = document.createElement("iframe");
  const style = (element, styles) => Object.assign(element.style, styles);
  frame.src = `${origin}/chat/embed`;
  frame.title = label;
  frame.loading = "lazy";
  frame.referrerPolicy = "strict-origin";
  style(frame, { border: "0", colorScheme: "light dark" });
  if (inline !== undefined) {
    style(frame, { width: "100%", height: "38rem", maxHeight: "85vh", borderRadius: "1rem" });
    script.after(frame);
  } else {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = label;
    button.setAttribute("aria-expanded", "false");
    style(button, {
      position: "fixed", insetInlineEnd: "1.25rem", insetBlockEnd: "1.25rem", zIndex: "2147483000", border: "0", cursor: "pointer",
      padding: ".85rem 1.4rem", borderRadius: "2rem", font: "600 1rem system-ui, sans-serif", color: "#fff", background: "ACCENT",
      boxShadow: "0 6px 24px #0003",
    });
    style(frame, {
      position: "fixed", insetInlineEnd: "1.25rem", insetBlockEnd: "5rem", zIndex: "2147483000", display: "none",
      width: "min(26rem, calc(100vw - 2.5rem))", height: "min(42rem, calc(100vh - 7rem))", borderRadius: "1.1rem", boxShadow: "0 12px 48px #0004",
    });
    const show = (on) => {
      frame.style.display = on ? "block" : "none";
      button.setAttribute("aria-expanded", String(on));
      if (on) frame.focus();
    };
    button.addEventListener("click", () => show(frame.style.display === "none"));
    addEventListener("keydown", (event) => event.key === "Escape" && show(false));
    document.body.append(frame, button);
    if (open !== undefined) show(true);
  }
  addEventListener("message", (event) => {
    if (event.source !== frame.contentWindow || event.origin !== origin || !event.data) return;
    if (event.data.noria === "height" && inline !== undefined && Number.isFinite(event.data.height))
      frame.style.height = `${Math.min(4000, Math.max(320, event.data.height))}px`;
  });
})();
