"use strict";
// Where time went: for each step when it waited for a worker, was claimed, and ran.

const MOST_BARS = 150;

function timelineOf(contents, open) {
  const launches = contents.launches.length ? contents.launches : [null];
  const parts = launches.map((launch) => [launch, ganttOf(contents, launch, open)]).filter(([, part]) => part);
  if (!parts.length) return null;
  return section("time", "Where time went", null, parts.map(([launch, part]) => [parts.length > 1 && h("h3", {}, `${launch.script}, ${launch.time} UTC`), part]));
}

function ganttOf(contents, launch, open) {
  const begun = launch ? secondsAt(launch) : null;
  const all = spansOf(contents, launch, begun);
  if (!all.length) return null;
  const rows = longest(all);
  const now = Date.parse(contents.made) / 1000;
  const start = begun ?? Math.min(...rows.map((row) => row.spans[0].from));
  const end = Math.max(...rows.flatMap((row) => row.spans.map((span) => span.to ?? now)), start + 1);
  const at = (time) => `${(100 * (Math.min(Math.max(time, start), end) - start)) / (end - start)}%`;
  const ticks = ticksOf(end - start);
  const resting = contents.steps.length - all.length;
  const words = [...new Set(rows.flatMap((row) => row.spans.map((span) => span.word)))];
  return h("div", {}, resting > 0 && h("p", {class: "about"}, `${plural(resting, "step")} took no time in this launch.`),
    rows.length < all.length && h("p", {class: "about"}, `The ${rows.length} longest of ${number(all.length)} steps are shown.`),
    h("p", {class: "legend"}, words.map((word) => h("span", {class: "chip"}, h("i", {class: `span ${word}`, "aria-hidden": "true"}), word))),
    h("div", {class: contents.cost ? "gantt priced" : "gantt"},
      h("div", {class: "axis", "aria-hidden": "true"}, h("span", {class: "label"}), h("div", {class: "track"}, ticks.map((tick) => h("span", {style: {left: at(start + tick)}}, tick ? duration(tick).replace(/ 0 (s|min|h)$/, "") : "0")))),
      rows.map((row) => h("div", {class: "row"},
        h("button", {class: "link label", type: "button", title: row.step.name, onclick: () => open(row.step.directory)}, h("bdi", {}, row.step.name)),
        h("div", {class: "track"},
          ticks.map((tick) => h("i", {class: "line", style: {left: at(start + tick)}})),
          row.spans.map((span) => h("span", {class: `span ${span.word}`, style: {left: at(span.from), width: `calc(${at(start + (Math.min(span.to ?? now, end) - Math.max(span.from, start)))})`}, title: `${row.step.name}, ${span.word}: ${duration((span.to ?? now) - span.from)}`}))),
        h("span", {class: "took"}, duration(row.took(now))),
        contents.cost && h("span", {class: "took"}, row.step.cost)))),
    fold("These times as a table", false, () => table(["step", "waited for a worker", "claimed", "ran", "lost", ...(contents.cost ? ["cost"] : [])],
      rows.map((row) => [row.step.name, ...["queued", "claimed", "running", "lost"].map((word) => sumOf(row.spans, word, now)), ...(contents.cost ? [row.step.cost || ""] : [])]), {numeric: [1, 2, 3, 4, 5], label: "Where time went"})));
}

function longest(rows) {
  const now = Date.now() / 1000;
  const kept = new Set([...rows].sort((a, b) => b.took(now) - a.took(now)).slice(0, MOST_BARS));
  return rows.filter((row) => kept.has(row));
}

const secondsAt = (launch) => Date.parse(`${launch.time.replace(" ", "T")}Z`) / 1000;

// Attempts of older versions do not say which launch made them: then their time tells.
function isOf(attempt, launch, begun) {
  if (!launch || attempt.run) return !launch || attempt.run === launch.run;
  return (attempt.ended ?? Infinity) >= begun && (!launch.ended || 1000 * attempt.claimed <= Date.parse(launch.ended));
}

function sumOf(spans, word, now) {
  const words = word === "running" ? ["ran", "running", "failed"] : [word];
  const found = spans.filter((span) => words.includes(span.word));
  return found.length ? duration(found.reduce((sum, span) => sum + (span.to ?? now) - span.from, 0)) : "";
}

function spansOf(contents, launch, begun) {
  const ended = new Map();
  for (const step of contents.steps) {
    const good = step.attempts.find((attempt) => attempt.state === "committed");
    if (good && good.ended !== null) ended.set(step.directory, good.ended);
  }
  const rows = [];
  for (const step of contents.steps) {
    const attempts = step.attempts.filter((attempt) => isOf(attempt, launch, begun));
    if (!attempts.length) continue;
    const spans = [];
    let free = Math.max(begun ?? -Infinity, ...step.inputs.map((used) => ended.get(used) ?? -Infinity));
    for (const attempt of attempts) {
      if (Number.isFinite(free) && attempt.claimed - free > 0.05 && begun !== null) spans.push({word: "queued", from: free, to: attempt.claimed});
      const started = attempt.started ?? attempt.claimed;
      if (started > attempt.claimed) spans.push({word: "claimed", from: attempt.claimed, to: started});
      const word = {committed: "ran", ended: "ran", failed: "failed", running: "running", lost: "lost"}[attempt.state];
      spans.push({word, from: started, to: attempt.ended});
      free = attempt.ended ?? Infinity;
    }
    const took = (now) => spans.filter((span) => span.word !== "queued").reduce((sum, span) => sum + (span.to ?? now) - span.from, 0);
    rows.push({step, spans, took});
  }
  return rows.sort((a, b) => a.spans.at(-1).from - b.spans.at(-1).from);
}

function ticksOf(length) {
  const steps = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800, 604800];
  const width = steps.find((step) => length / step <= 6) || steps.at(-1);
  return Array.from({length: Math.floor(length / width) + 1}, (_, index) => index * width);
}
