"use strict";
// The page: its bar, its sections, and the dialog for one step.

const THEMES = ["auto", "light", "dark"];
let theme = "auto";

const dialog = h("dialog", {class: "step", "aria-label": "A step"});
dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
document.body.append(dialog);
const opened = []; // what else to do when a step is opened

function show(contents, links = []) {
  const open = (directory) => {
    const step = contents.steps.find((one) => one.directory === directory);
    if (!step) return;
    const close = h("button", {class: "close", type: "button", "aria-label": "Close", onclick: () => dialog.close()}, "×");
    dialog.replaceChildren(close, h("div", {class: "body"}, detailsOf(step, contents, open)));
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    for (const log of dialog.querySelectorAll(".log")) log.scrollTop = log.scrollHeight;
    for (const run of opened) run(step);
  };
  charts.redraw = [];
  const parts = [headOf(contents, open), stepsOf(contents, open), timelineOf(contents, open), sweepsOf(contents, open), trainingsOf(contents), dataOf(contents), lintsOf(contents), evaluationsOf(contents), exportsOf(contents)].filter(Boolean);
  const sections = parts.slice(1).map((part) => h("a", {href: `#${part.id}`}, part.querySelector("h2").textContent));
  fill(h("a", {class: "home", href: "#main"}, contents.title), [...links, ...sections], parts, `Made ${moment(contents.made)} from ${contents.prefix}.`);
}

function fill(home, links, parts, foot) {
  document.getElementById("bar").replaceChildren(h("nav", {"aria-label": "Sections"}, home, h("span", {class: "links"}, links), themeSwitch()));
  for (const one of [...charts]) one.destroy();
  document.getElementById("main").replaceChildren(...parts, h("footer", {}, foot));
}

function themeSwitch() {
  const button = h("button", {class: "theme", type: "button"});
  const label = () => (button.textContent = {auto: "◐ auto", light: "○ light", dark: "● dark"}[theme]);
  button.addEventListener("click", () => {
    useTheme(THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length]);
    label();
  });
  button.setAttribute("aria-label", "Colours: automatic, light or dark");
  label();
  return button;
}

function useTheme(name) {
  theme = name;
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  redrawn();
}

const redrawn = () => (charts.redraw || []).forEach((draw) => draw());

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawn);
let onScreen = "auto";
addEventListener("beforeprint", () => {
  onScreen = theme;
  useTheme("light");
  for (const part of document.querySelectorAll("main details:not(.values)")) {
    part.unfold?.();
    if (!part.open) part.dataset.opened = part.open = true;
  }
});
addEventListener("afterprint", () => {
  useTheme(onScreen);
  for (const part of document.querySelectorAll("[data-opened]")) (delete part.dataset.opened, (part.open = false));
});
