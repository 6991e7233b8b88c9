"use strict";
// The curves of trainings: those of one kind share each chart.

const GROUPS = [
  ["Loss", ["loss", "validation/loss", "before/validation/loss", "perplexity"]],
  ["Preference", ["rewards/margins", "rewards/accuracies", "rewards/chosen", "rewards/rejected", "kl", "logps/chosen", "logps/rejected"]],
  ["Optimization and speed", ["lr", "learning_rate", "grad_norm", "tokens_per_second", "pairs_per_second", "mfu"]],
];
const NAMES = {
  loss: "loss", "validation/loss": "evaluation loss", perplexity: "perplexity", lr: "learning rate", grad_norm: "gradient norm",
  tokens_per_second: "tokens/s", pairs_per_second: "pairs/s", mfu: "MFU", mfu_packed: "MFU (packed)", "rewards/margins": "reward margin",
  "rewards/accuracies": "accuracy of rewards", "rewards/chosen": "reward of chosen", "rewards/rejected": "reward of rejected", kl: "KL",
};
const AXES = {step: "step", tokens: "tokens", seconds: "training time"};
const MOST_TOLD = 4; // runs whose values stand above a chart
const kept = new Map(); // what was chosen for the charts of a kind, also when the page is drawn again
const charts = new Set(); // that are on the page, to be drawn again in other colors

function trainingsOf(contents) {
  if (!contents.trainings.length) return null;
  const kinds = [...new Set(contents.trainings.map((training) => training.kind))];
  const parts = kinds.map((kind) => kindOf(kind, contents.trainings.filter((one) => one.kind === kind), contents.differences));
  return section("training", "Training", null, parts);
}

function kindOf(kind, trainings, differences) {
  if (!kept.has(kind)) kept.set(kind, {axis: "step", smooth: 0, hidden: new Set(), log: false});
  const state = kept.get(kind);
  const {grid, draw} = drawnCharts(h("div", {class: "charts"}), () => metricsIn(trainings).map(([group, names]) => h("div", {class: "group"},
    h("h4", {}, group), h("div", {class: "grid"}, names.map((name) => chartOf(name, trainings, state))))));
  const choice = (label, values, run) => h("label", {}, label, h("select", {onchange: (event) => (run(event.target.value), draw())}, values.map(([value, text]) => h("option", {value, selected: value === state.axis}, text))));
  const axes = Object.entries(AXES).filter(([axis]) => axis === "step" || trainings.some((one) => one.metrics.loss && one.metrics.loss[axis]));
  const noted = differences.filter((one) => trainings.some((training) => training.step === one.step));
  return h("div", {class: "kind"},
    h("h3", {}, {sft: "Supervised fine-tuning", dpo: "Preference optimization"}[kind] || kind || "Training"),
    h("div", {class: "controls"},
      h("div", {class: "runs"}, trainings.map((training, index) => h("button", {class: "run", type: "button", "aria-pressed": String(!state.hidden.has(training.step)), title: "Show or hide",
        onclick: (event) => {
          const hide = !state.hidden.has(training.step);
          state.hidden[hide ? "add" : "delete"](training.step);
          event.currentTarget.setAttribute("aria-pressed", String(!hide));
          draw();
        }}, swatch(index), training.label))),
      choice("against", axes, (value) => (state.axis = value)),
      h("label", {}, "smoothing", h("input", {type: "range", min: "0", max: "0.98", step: "0.02", value: state.smooth, oninput: (event) => {
        state.smooth = Number(event.target.value);
        draw();
      }})),
      h("label", {}, h("input", {type: "checkbox", checked: state.log, onchange: (event) => ((state.log = event.target.checked), draw())}), "log scale")),
    summaryOf(trainings), grid,
    noted.length > 0 && fold(`How ${noted.length > 1 ? "they differ" : "it differs"} from ${labelIn(trainings, noted[0].of)}`, true, table(["training", "fields"],
      noted.map((one) => [labelIn(trainings, one.step), one.fields.map((field) => h("div", {}, h("code", {}, field)))]), {label: "Differences between trainings"})),
    trainings.filter((one) => !one.whole).map((one) => h("p", {class: "note"}, `${one.name}: its log has ${bytes(one.bytes)}. The curves show ${number(one.lines)} of its lines, spread over it.`)),
    unknownOf(trainings));
}

const labelIn = (trainings, step) => trainings.find((one) => one.step === step)?.label || step;

// Draws charts once the grid is on the page, and again in other colors.
function drawnCharts(grid, make) {
  const draw = () => {
    for (const one of [...charts]) if (grid.contains(one.holder)) one.destroy();
    grid.replaceChildren(...make());
  };
  requestAnimationFrame(draw);
  charts.redraw = charts.redraw || [];
  charts.redraw.push(draw);
  return {grid, draw};
}

function unknownOf(trainings) {
  const names = [...new Set(trainings.flatMap((one) => one.unknown))].filter((name) => trainings.every((one) => !one.metrics[name]));
  return names.length ? h("p", {class: "about"}, `Not known on this device: ${names.map((name) => NAMES[name] || name).join(", ")}.`) : null;
}

function summaryOf(trainings) {
  const wanted = [["steps", "step"], ["epochs", "epoch"], ["tokens", "tokens"], ["trained tokens", "trained_tokens"], ["last loss", "loss"], ["evaluation loss", "validation/loss"], ["tokens/s", "tokens_per_second"], ["training", "training_seconds"], ["compilation", "compilation_seconds"]];
  const valueOf = (training, name) => training.summary[name] ?? training.last[name];
  const there = wanted.filter(([, name]) => trainings.some((one) => valueOf(one, name) !== undefined));
  const text = (name, value) => (value === undefined ? "–" : name.endsWith("_seconds") ? duration(value) : number(value));
  return table(["training", ...there.map(([label]) => label)], trainings.map((one) => [one.label, ...there.map(([, name]) => text(name, valueOf(one, name)))]),
    {numeric: there.map((_, index) => index + 1), label: "Figures of each training"});
}

function metricsIn(trainings) {
  const there = new Set(trainings.flatMap((one) => Object.keys(one.metrics)));
  const groups = GROUPS.map(([group, names]) => [group, names.filter((name) => there.delete(name))]);
  for (const name of [...there]) {
    const index = /reward|logps|kl|margin|accurac/.test(name) ? 1 : /validation|loss/.test(name) ? 0 : /_per_second|mfu|memory/.test(name) ? 2 : -1;
    if (index >= 0 && there.delete(name)) groups[index][1].push(name);
  }
  return [...groups, ["Other", [...there]]].filter(([, names]) => names.length);
}

// From the ninth run on colors come again, dashed.
function swatch(index) {
  const of = `var(${runColor(index)})`;
  return h("i", {"aria-hidden": "true", style: {background: index < RUN_COLORS ? of : `repeating-linear-gradient(90deg, ${of} 0 4px, transparent 4px 6px)`}});
}

function smoothed(values, weight) {
  let mean = 0, count = 0;
  return values.map((value) => {
    mean = weight * mean + (1 - weight) * value;
    count = weight * count + (1 - weight);
    return mean / count; // without the pull of the start towards zero
  });
}

function chartOf(name, trainings, state) {
  const shownRuns = trainings.map((training, index) => ({training, index, curve: training.metrics[name]}))
    .filter((run) => run.curve && run.curve[state.axis] && !state.hidden.has(run.training.step));
  const label = NAMES[name] || name;
  const readout = h("output", {class: "readout"});
  const holder = h("div", {class: "plot", tabindex: "0", role: "img", "aria-label": `${label} against ${AXES[state.axis]}: ${shownRuns.map(textOf).join("; ")}. Arrow keys move along it.`});
  const figure = h("figure", {class: "chart"}, h("figcaption", {}, h("b", {}, label), readout), holder, valuesOf(label, shownRuns, state));
  if (!shownRuns.length) {
    holder.append(h("p", {class: "about"}, "No values to show."));
    return figure;
  }
  const tables = [], series = [{}], raw = state.smooth > 0;
  for (const run of shownRuns) {
    const ys = state.smooth ? smoothed(run.curve.value, state.smooth) : run.curve.value;
    const stroke = color(runColor(run.index));
    if (raw) {
      tables.push([run.curve[state.axis], run.curve.value]);
      series.push({stroke: `${stroke}40`, width: 1, points: {show: false}, spanGaps: true});
    }
    tables.push([run.curve[state.axis], ys]);
    series.push({stroke, width: 1.75, dash: run.index >= RUN_COLORS ? [5, 4] : [], points: {show: run.curve.value.length < 12, size: 5, fill: stroke}, spanGaps: true, run});
  }
  const data = uPlot.join(tables);
  const positive = data.slice(1).every((values) => values.every((value) => value === null || value === undefined || value > 0));
  const told = (index) => readout.replaceChildren(...readoutOf(data, series, index, state));
  const axis = {stroke: color("--muted"), grid: {stroke: color("--line"), width: 1}, ticks: {show: false}, font: "11px system-ui, sans-serif", gap: 6};
  const options = {
    width: 320, height: 190, legend: {show: false}, series, padding: [8, 12, 0, 0],
    cursor: {points: {size: 6}, y: false, drag: {x: true, y: false}},
    scales: {x: {time: false}, y: {distr: state.log && positive ? 3 : 1}},
    axes: [{...axis, size: 28, space: 60, values: (_, ticks) => ticks.map((tick) => (state.axis === "seconds" ? duration(tick).replace(/ 0 s$/, "") : compact(tick)))},
      {...axis, size: 54, space: 34, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : compact(tick)))}],
    hooks: {setCursor: [(plot) => told(plot.cursor.idx ?? data[0].length - 1)]},
  };
  requestAnimationFrame(() => {
    if (!holder.isConnected) return;
    options.width = Math.max(200, holder.clientWidth);
    const plot = new uPlot(options, data, holder);
    const one = {holder, destroy: () => (watch.disconnect(), plot.destroy(), charts.delete(one))};
    const watch = new ResizeObserver(throttled(() => holder.clientWidth && plot.setSize({width: holder.clientWidth, height: 190})));
    watch.observe(holder);
    charts.add(one);
    let place = data[0].length - 1;
    holder.addEventListener("keydown", (event) => {
      const by = {ArrowLeft: -1, ArrowRight: 1, Home: -place, End: data[0].length - 1 - place}[event.key];
      if (by === undefined) return;
      event.preventDefault();
      place = Math.min(data[0].length - 1, Math.max(0, place + by));
      plot.setCursor({left: plot.valToPos(data[0][place], "x"), top: 20});
    });
  });
  told(data[0].length - 1);
  return figure;
}

function compact(value) {
  const size = Math.abs(value);
  if (size >= 1e9) return `${+(value / 1e9).toPrecision(3)}B`;
  if (size >= 1e6) return `${+(value / 1e6).toPrecision(3)}M`;
  if (size >= 1e4) return `${+(value / 1e3).toPrecision(3)}k`;
  return String(+value.toPrecision(4));
}

const textOf = ({training, curve}) => `${training.label} from ${number(curve.value[0])} to ${number(curve.value.at(-1))}${curve.gaps ? `, ${plural(curve.gaps, "value")} not finite` : ""}`;

function readoutOf(data, series, index, state) {
  const x = data[0][index];
  const at = state.axis === "seconds" ? duration(x) : `${AXES[state.axis]} ${number(x)}`;
  const found = series.map((one, place) => [one.run, data[place]]).filter(([run]) => run).map(([run, ys]) => {
    let near = index;
    while (near > 0 && (ys[near] === null || ys[near] === undefined)) near -= 1;
    return [run, ys[near]];
  });
  const start = h("span", {class: "at"}, at);
  if (found.length > MOST_TOLD) {
    const values = found.map(([, value]) => value).filter((value) => value !== null && value !== undefined);
    return [start, h("span", {}, `${number(Math.min(...values))} to ${number(Math.max(...values))}`)];
  }
  return [start, ...found.map(([run, value]) => h("span", {}, swatch(run.index), number(value), run.curve.gaps ? h("em", {}, ` ${run.curve.gaps} not finite`) : null))];
}

function valuesOf(label, runs, state) {
  return h("details", {class: "values"}, h("summary", {}, "values"), runs.map(({training, curve}) => {
    const count = Math.min(12, curve.value.length);
    const places = [...new Set(Array.from({length: count}, (_, i) => Math.round((i * (curve.value.length - 1)) / Math.max(1, count - 1))))];
    return table([AXES[state.axis], `${label}, ${training.label}`], places.map((place) => [state.axis === "seconds" ? duration(curve.seconds[place]) : number(curve[state.axis][place]), number(curve.value[place])]), {numeric: [0, 1], label: `Values of ${label}`});
  }));
}
