"use strict";
(() => {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const button = document.getElementById("theme");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  const show = () => { button.textContent = isDark() ? "Light" : "Dark"; };
  button.hidden = false;
  button.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; show(); });
  dark.addEventListener("change", show);
  show();

  // The server under the pointer is lit up in the plot it is in, and what it stands for is said beside the pointer.
  const tip = document.getElementById("tip");
  let lit = [];
  const clear = () => {
    for (const each of lit) each.classList.remove("lit");
    lit = [];
    document.body.classList.remove("focus");
    tip.hidden = true;
  };
  const light = (target, x, y) => {
    clear();
    const marked = target.closest("[data-server]");
    if (!marked) return;
    lit = [...document.querySelectorAll("[data-server]")].filter((each) => each.dataset.server === marked.dataset.server);
    for (const each of lit) each.classList.add("lit");
    document.body.classList.add("focus");
    const text = target.closest("[data-tip]");
    if (!text) return;
    tip.textContent = text.dataset.tip;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(6, Math.min(x + 14, innerWidth - box.width - 6))}px`;
    tip.style.top = `${y + 18 + box.height > innerHeight ? y - box.height - 12 : y + 18}px`;
  };
  document.addEventListener("pointermove", (event) => light(event.target, event.clientX, event.clientY));
  document.addEventListener("pointerleave", clear);
  document.addEventListener("focusin", (event) => {
    const box = event.target.getBoundingClientRect();
    light(event.target, box.left, box.bottom);
  });
  document.addEventListener("focusout", clear);

  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) links.get(entry.target.id)?.classList.toggle("here", entry.isIntersecting);
  }, { rootMargin: "-20% 0px -70% 0px" });
  for (const section of document.querySelectorAll("main > section")) seen.observe(section);
})();
