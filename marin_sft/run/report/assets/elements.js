"use strict";
// Elements, and numbers as text. Texts become text nodes: no HTML is ever parsed.

const SVG = "http://www.w3.org/2000/svg";

function put(element, properties, children) {
  for (const [name, value] of Object.entries(properties || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, of] of Object.entries(value)) element.style.setProperty(key, of);
    else element.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return element;
}

const h = (tag, properties, ...children) => put(document.createElement(tag), properties, children);
const s = (tag, properties, ...children) => put(document.createElementNS(SVG, tag), properties, children);

const shortName = (name) => name.slice(name.lastIndexOf("/") + 1);
const groupName = (name) => name.slice(0, Math.max(0, name.lastIndexOf("/")));

// A name that breaks after its slashes only.
const breakable = (name) => name.split(/(?<=\/)/).flatMap((part, index) => (index ? [h("wbr"), part] : [part]));

// The first lines of a message, and how many more there are.
function firstLines(text, most = 10) {
  const lines = text.trimEnd().split("\n");
  return [...lines.slice(0, most), ...(lines.length > most ? [`and ${plural(lines.length - most, "more line")}`] : [])].join("\n");
}

function number(value, digits = 4) {
  if (value === null || value === undefined) return "–";
  if (!Number.isFinite(value)) return String(value);
  if (Math.abs(value) >= 1e15) return value.toExponential(digits - 1).replace("e+", "e");
  if (Number.isInteger(value) || Math.abs(value) >= 1000) return Math.round(value).toLocaleString("en-US");
  return String(Number(value.toPrecision(digits)));
}

const percent = (share, digits = 1) => (share === null || share === undefined ? "–" : `${(100 * share).toFixed(digits)}%`);

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.1) return `${Math.round(1000 * Math.max(0, seconds))} ms`;
  if (seconds < 59.5) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (seconds < 5970) return `${Math.floor(Math.round(seconds) / 60)} min ${Math.round(seconds) % 60} s`;
  if (minutes < 2880) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  return `${Math.floor(minutes / 1440)} d ${Math.floor((minutes % 1440) / 60)} h`;
}

function age(seconds) {
  for (const [unit, size] of [["d", 172800], ["h", 7200], ["min", 60]]) {
    if (seconds >= size) return `${Math.floor(seconds / {d: 86400, h: 3600, min: 60}[unit])} ${unit}`;
  }
  return `${Math.max(0, Math.round(seconds))} s`;
}

function bytes(count) {
  for (const [unit, size] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
    if (count >= size) return `${(count / size).toFixed(count < 10 * size ? 2 : 1)} ${unit}`;
  }
  return `${count} B`;
}

const moment = (text) => (text ? `${text.slice(0, 10)} ${text.slice(11, 19)} UTC` : "–");
const plural = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
const shown = (value) => (typeof value === "string" ? value : JSON.stringify(value));
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const RUN_COLORS = 8;
const runColor = (index) => `--run${index % RUN_COLORS}`;

function chip(word) {
  return h("span", {class: `chip ${word.replace(/\W/g, "_")}`}, h("i", {"aria-hidden": "true"}), word);
}

function table(heads, rows, options = {}) {
  const numeric = options.numeric || [];
  const cell = (tag, value, index) => h(tag, {class: numeric.includes(index) ? "n" : null, scope: tag === "th" ? "col" : null}, value);
  return h("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": options.label || "table"},
    h("table", {class: options.class},
      options.label && h("caption", {class: "hidden"}, options.label),
      h("thead", {}, h("tr", {}, heads.map((head, index) => cell("th", head, index)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map((value, index) => cell("td", value, index)))))));
}

function facts(pairs) {
  const there = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return h("dl", {class: "facts"}, there.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

// A function as the only child makes what is folded when it is first opened: of thousands of rows, that is worth it.
function fold(summary, open, ...children) {
  const [make] = children;
  if (typeof make !== "function") return h("details", {open}, h("summary", {}, summary), children);
  const part = h("details", {open}, h("summary", {}, summary));
  part.unfold = () => {
    part.unfold = () => {};
    part.append(make());
  };
  part.addEventListener("toggle", () => part.open && part.unfold());
  if (open) part.unfold();
  return part;
}

function copied(code) {
  const button = h("button", {class: "copy", type: "button"}, "copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(code);
    } catch (error) { // a page from a file may not be allowed to
      const area = h("textarea", {}, code);
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    button.textContent = "copied";
    setTimeout(() => (button.textContent = "copy"), 1500);
  });
  return h("div", {class: "code"}, h("pre", {tabindex: "0"}, code), button);
}

function section(id, title, about, ...children) {
  return h("section", {id, "aria-labelledby": `${id}-title`},
    h("header", {}, h("h2", {id: `${id}-title`}, title), about && h("p", {class: "about"}, about)), children);
}

// Bars as a chart, with its figures as a table for those who cannot see it.
function bars(label, items, text = number) {
  const most = Math.max(...items.map((item) => item.value), 0) || 1;
  return h("figure", {class: "bars"},
    h("div", {class: "plot", role: "img", "aria-label": `${label}: ${items.map((item) => `${item.name} ${text(item.value)}`).join(", ")}`},
      items.map((item) => h("span", {title: `${item.name}: ${text(item.value)}`},
        h("i", {style: {height: `${(100 * item.value) / most}%`, background: `var(${item.color || "--accent"})`}})))),
    h("div", {class: "ends", "aria-hidden": "true"}, h("span", {}, items[0]?.name), h("span", {}, items.at(-1)?.name)),
    h("figcaption", {}, label));
}
