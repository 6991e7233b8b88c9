"use strict";
// Sweeps: the points in a table, best first, and the figure that decides against each setting.

const SWEEP_ROWS = 20; // shown before the rest is unfolded
const SWEEP_PLOT = {width: 360, height: 210, left: 52, right: 14, top: 12, bottom: 34};

function sweepsOf(contents, open) {
  if (!(contents.sweeps || []).length) return null;
  return section("sweeps", contents.sweeps.length > 1 ? "Sweeps" : "Sweep", null, contents.sweeps.map((one) => sweepOf(one, open)));
}

function sweepOf(sweep, open) {
  const done = sweep.points.filter((point) => point.value !== null);
  const lost = sweep.points.filter((point) => ["failed", "blocked", "cancelled", "interrupted"].includes(point.state));
  const open_points = sweep.points.length - done.length - lost.length;
  const way = sweep.direction === "max" ? "highest" : "lowest";
  const best = done[0];
  const swept = sweep.settings.filter((name) => new Set(sweep.points.map((point) => JSON.stringify(point.settings[name]))).size > 1);
  const about = [`${plural(sweep.points.length, "point")}, ${number(done.length)} ${sweep.rungs > 1 ? "with a figure" : "finished"}`, lost.length && `${number(lost.length)} failed`, open_points > 0 && `${number(open_points)} to go`];
  return h("div", {class: "sweep"}, h("h3", {}, sweep.name),
    h("p", {class: "about"}, `${about.filter(Boolean).join(", ")}. Decided by the ${way} `, h("code", {}, sweep.metric), "."),
    best && h("p", {class: "lead best"}, h("b", {}, number(best.value)), best.spread !== null && ` ± ${number(best.spread, 2)}`, " with ", sweep.settings.map((name, index) => [index > 0 && ", ", h("code", {}, `${name} ${settingText(best.settings[name])}`)])),
    !sweep.made && done.length > 0 && h("p", {class: "note"}, lost.length > 0 ? "The sweep's own table was not made, since points have failed. These are the figures of those that finished." : "The sweep has not ended. These are the figures so far."),
    done.length > 1 && swept.length > 0 && [h("div", {class: "grid"}, swept.map((name) => sweepChart(sweep, name, done, lost))),
      h("p", {class: "legend"}, `${sweep.metric}: a dot for each point, the best one larger, and a line through the best at each value`, sweep.rungs > 1 && "; hollow ones stopped on an earlier rung", lost.length > 0 && "; × for a point that failed", ".")],
    sweepTable(sweep, open),
    sweep.left_out > 0 && h("p", {class: "about"}, `Curves and answers below are those of the best points; ${plural(sweep.left_out, "training")} more ${sweep.left_out === 1 ? "is" : "are"} in the table alone.`));
}

const settingText = (value) => (value === null || value === undefined ? "none" : typeof value === "number" ? String(value).replace(/e([+-])0*/, "e$1") : String(value));

function sweepTable(sweep, open) {
  const spreads = sweep.points.some((point) => point.spread !== null);
  const rungs = sweep.rungs > 1;
  const heads = ["", sweep.metric, ...(spreads ? ["± over seeds"] : []), ...(rungs ? ["rung"] : []), ...sweep.settings, sweep.points.some((point) => point.steps.length > 1) ? "trainings" : "training"];
  const rows = sweep.points.map((point, index) => [
    point.value === null ? "" : String(index + 1),
    point.value === null ? chip(point.state === "ran" ? "no figure" : point.state) : number(point.value, 6),
    ...(spreads ? [point.spread === null ? "–" : number(point.spread, 2)] : []),
    ...(rungs ? [`${point.rung + 1} of ${sweep.rungs}`] : []),
    ...sweep.settings.map((name) => settingText(point.settings[name])),
    point.steps.length ? point.steps.map((step, at) => h("button", {class: "link", type: "button", "aria-label": `details of ${point.point}${point.steps.length > 1 ? `, training ${at + 1}` : ""}`, onclick: () => open(step)}, point.steps.length > 1 ? at + 1 : "details")) : "–",
  ]);
  const texts = sweep.settings.filter((name) => sweep.points.some((point) => typeof point.settings[name] === "string"));
  const numeric = heads.map((_, index) => index).filter((index) => index < heads.length - 1 && !texts.includes(heads[index]));
  const shownTable = (some, label) => table(heads, some, {numeric, label, class: "points"});
  return [shownTable(rows.slice(0, SWEEP_ROWS), `Points of ${sweep.name}, best first`),
    rows.length > SWEEP_ROWS && fold(`${number(rows.length - SWEEP_ROWS)} more points`, false, shownTable(rows.slice(SWEEP_ROWS), `More points of ${sweep.name}`))];
}

// One dot per point; a line through the best at each value; crosses for points that failed.
function sweepChart(sweep, name, done, lost) {
  const {width, height, left, right, top, bottom} = SWEEP_PLOT;
  const values = [...new Map([...done, ...lost].map((point) => [JSON.stringify(point.settings[name]), point.settings[name]])).values()];
  const numbers = values.every((value) => typeof value === "number");
  if (numbers) values.sort((a, b) => a - b);
  const log = numbers && values[0] > 0 && values.at(-1) / values[0] >= 4;
  const spaced = numbers && (log || values.length > 2);
  const place = (value) => (log ? Math.log(value) : value);
  const x = (value) => {
    const span = width - left - right - 24;
    const share = spaced ? (place(value) - place(values[0])) / (place(values.at(-1)) - place(values[0]) || 1) : (values.findIndex((one) => JSON.stringify(one) === JSON.stringify(value)) + 0.5) / values.length;
    return left + 12 + span * share;
  };
  const figures = done.flatMap((point) => [point.value - (point.spread || 0), point.value + (point.spread || 0)]);
  const [low, high] = [Math.min(...figures), Math.max(...figures)];
  const room = (high - low || Math.abs(high) || 1) * 0.06;
  const ticks = niceTicks(low - room, high + room, 4);
  const lane = lost.length ? 20 : 0; // for the crosses
  const y = (value) => top + (height - top - bottom - lane) * (1 - (value - (low - room)) / (high - low + 2 * room));
  const bests = values.map((value) => done.find((point) => JSON.stringify(point.settings[name]) === JSON.stringify(value))).filter(Boolean);
  const text = (point) => `${sweep.settings.map((one) => `${one} ${settingText(point.settings[one])}`).join(", ")}: ${point.value === null ? point.state : number(point.value)}`;
  const shownValues = labelled(values, x, spaced);
  const label = `${sweep.metric} against ${name}: ${bests.map((point) => `${settingText(point.settings[name])} at best ${number(point.value)}`).join(", ")}${lost.length ? `; ${plural(lost.length, "point")} failed` : ""}`;
  return h("figure", {class: "chart scatter"},
    h("figcaption", {}, h("b", {}, name), h("span", {class: "readout"}, `best at ${settingText(done[0].settings[name])}`)),
    s("svg", {viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label},
      ticks.map((tick) => [s("line", {class: "rule", x1: left, x2: width - right, y1: y(tick), y2: y(tick)}), s("text", {x: left - 7, y: y(tick) + 4, "text-anchor": "end"}, compact(tick))]),
      shownValues.map((value) => s("text", {x: x(value), y: height - bottom + 18, "text-anchor": "middle"}, shortened(settingText(value)))),
      bests.length > 1 && numbers && s("polyline", {class: "through", points: bests.map((point) => `${x(point.settings[name])},${y(point.value)}`).join(" ")}),
      done.filter((point) => point.spread).map((point) => s("line", {class: "spread", x1: x(point.settings[name]), x2: x(point.settings[name]), y1: y(point.value - point.spread), y2: y(point.value + point.spread)})),
      lost.map((point) => s("text", {class: "lost", x: x(point.settings[name]), y: height - bottom - 3, "text-anchor": "middle"}, "×", s("title", {}, text(point)))),
      [...done].reverse().map((point) => s("circle", {class: `dot${point === done[0] ? " first" : ""}${point.rung + 1 < sweep.rungs ? " early" : ""}`, cx: x(point.settings[name]), cy: y(point.value), r: point === done[0] ? 6 : 4}, s("title", {}, text(point))))));
}

const shortened = (text) => (text.length > 14 ? `${text.slice(0, 13)}…` : text);

// Values whose texts do not run into each other.
function labelled(values, x, spaced) {
  const found = [];
  for (const value of values) {
    const half = 3.4 * shortened(settingText(value)).length + 4;
    const before = found.at(-1);
    if (before === undefined || x(value) - half > x(before.value) + before.half) found.push({value, half});
  }
  return (spaced || found.length === values.length ? found : values.map((value) => ({value}))).map((one) => one.value);
}

function niceTicks(low, high, count) {
  const rough = (high - low) / count, size = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * size).find((one) => one >= rough);
  const found = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step * 1e-9; tick += step) found.push(Number(tick.toPrecision(12)));
  return found;
}
