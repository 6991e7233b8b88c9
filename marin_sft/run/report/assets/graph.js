"use strict";
// The steps: drawn as a graph and as a table, and one of them in detail.

const MOST_DRAWN = 250;
const LEAST_WIDTH = 112, RANKS_APART = {LR: 34, TB: 30};
const LINE = 7.5; // the width of a character of a name

function stepsOf(contents, open) {
  const holder = h("div", {class: "graph"});
  const drawn = drawable(contents.steps);
  const edges = neededEdges(drawn);
  const layouts = {}; // by direction: another width needs no other layout
  const layoutOf = (direction) => (layouts[direction] ||= laidOut(drawn, edges, direction));
  const draw = () => {
    const width = holder.clientWidth || 900;
    holder.replaceChildren(graph(drawn, layoutThatFits(drawn, edges, width, layoutOf), width, open));
  };
  new ResizeObserver(throttled(draw)).observe(holder);
  const few = drawn.length < contents.steps.length
    && h("p", {class: "about"}, `The graph shows ${drawn.length} of ${contents.steps.length} steps: those that did not end well and those next to them, then the first ones. The table has all.`);
  return section("steps", "Steps", "What a step uses stands before it. Choose a step to see all its inputs, its config, files, log and origin.",
    legendOf(contents.steps), few, holder, changesOf(contents), fold("All steps as a table", contents.steps.length <= 12, () => stepTable(contents.steps, open)));
}

function changesOf(contents) {
  if (!contents.changes.length) return null;
  const short = (directory) => shortName(directory).slice(-10);
  return fold(`${plural(contents.changes.length, "step")} of the same name that differ`, true, table(["step", "before", "after", "fields"], contents.changes.map((one) => [
    one.name, h("code", {}, short(one.of)), h("code", {}, short(one.step)), one.fields.map((field) => h("div", {}, h("code", {}, field)))]), {label: "Steps of the same name that differ"}));
}

function throttled(run) {
  let width = null, waiting = false;
  return ([entry]) => {
    const now = Math.round(entry.contentRect.width);
    if (now === width || waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      width = now;
      run();
    });
  };
}

function drawable(steps) {
  if (steps.length <= MOST_DRAWN) return steps;
  const kept = new Set();
  const good = ["ran", "reused", "waiting", "not run"];
  for (const step of steps) {
    if (kept.size >= MOST_DRAWN / 2) break;
    if (!good.includes(step.outcome)) [step.directory, ...step.inputs].forEach((name) => kept.add(name));
  }
  for (const step of steps) if (kept.size < MOST_DRAWN) kept.add(step.directory);
  return steps.filter((step) => kept.has(step.directory));
}

function legendOf(steps) {
  const words = [...new Set(steps.map((step) => step.outcome))];
  return h("p", {class: "legend"}, words.map((word) => chip(word)));
}

// From left to right if that fits. Of a long chain that is known before it is laid out, which takes a while.
function layoutThatFits(steps, edges, width, layoutOf) {
  const depth = new Map(steps.map((step) => [step.directory, 1]));
  for (const [used, step] of edges) depth.set(step, Math.max(depth.get(step), depth.get(used) + 1));
  const longest = Math.max(...depth.values());
  const sideways = longest * LEAST_WIDTH + (longest - 1) * RANKS_APART.LR <= width && layoutOf("LR");
  return sideways && sideways.graph().width <= width ? sideways : layoutOf("TB");
}

function graph(steps, layout, width, open) {
  const {width: natural, height} = layout.graph();
  const scale = Math.max(0.62, Math.min(1, width / natural));
  const image = s("svg", {width: natural * scale, height: height * scale, viewBox: `0 0 ${natural} ${height}`, role: "group", "aria-label": `${steps.length} steps and what they use`},
    s("defs", {}, s("marker", {id: "arrow", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto-start-reverse"}, s("path", {d: "M0 0 L8 4 L0 8 z"}))));
  for (const edge of layout.edges()) image.append(s("path", {class: "edge", d: curve(between(layout, edge), layout.graph().rankdir), "marker-end": "url(#arrow)"}));
  for (const step of steps) image.append(nodeOf(step, layout.node(step.directory), open));
  return image;
}

function laidOut(steps, edges, direction) {
  const layout = new dagre.graphlib.Graph();
  layout.setGraph({rankdir: direction, nodesep: 14, ranksep: RANKS_APART[direction], edgesep: 8, marginx: 4, marginy: 4});
  layout.setDefaultEdgeLabel(() => ({}));
  for (const step of steps) layout.setNode(step.directory, {width: widthOf(step), height: 46});
  for (const [used, step] of edges) layout.setEdge(used, step);
  dagre.layout(layout);
  return layout;
}

// Without those that follow from others: if c uses b and b uses a, that c uses a is in the details of c.
function neededEdges(steps) {
  const uses = new Map(steps.map((step) => [step.directory, new Set(step.inputs)]));
  const above = new Map();
  const reached = (name) => {
    if (!above.has(name)) {
      above.set(name, new Set());
      const found = new Set();
      for (const used of uses.get(name) || []) for (const one of [used, ...reached(used)]) found.add(one);
      above.set(name, found);
    }
    return above.get(name);
  };
  return steps.flatMap((step) => [...uses.get(step.directory)]
    .filter((used) => uses.has(used) && ![...uses.get(step.directory)].some((other) => other !== used && reached(other).has(used)))
    .map((used) => [used, step.directory]));
}

// From the side of one node that faces the other to the middle of the other's.
function between(layout, edge) {
  const [from, to] = [layout.node(edge.v), layout.node(edge.w)];
  const inner = layout.edge(edge).points.slice(1, -1);
  return layout.graph().rankdir === "LR"
    ? [{x: from.x + from.width / 2, y: from.y}, ...inner.slice(1, -1), {x: to.x - to.width / 2, y: to.y}]
    : [{x: from.x, y: from.y + from.height / 2}, ...inner.slice(1, -1), {x: to.x, y: to.y - to.height / 2}];
}

const widthOf = (step) => Math.min(230, Math.max(LEAST_WIDTH, 26 + LINE * Math.max(shortName(step.name).length, metaOf(step).length * 0.92)));

function metaOf(step) {
  const word = groupName(step.name) || step.kind || "";
  const time = step.outcome === "reused" ? "reused" : ["ran", "running", "failed", "interrupted"].includes(step.outcome) ? duration(step.seconds) : step.outcome;
  return [word, time].filter(Boolean).join(" · ");
}

function curve(points, direction) {
  const [first, ...rest] = points;
  let path = `M${first.x} ${first.y}`, before = first;
  for (const point of rest) {
    const across = direction === "LR";
    const middle = across ? (before.x + point.x) / 2 : (before.y + point.y) / 2;
    path += across ? ` C${middle} ${before.y} ${middle} ${point.y} ${point.x} ${point.y}` : ` C${before.x} ${middle} ${point.x} ${middle} ${point.x} ${point.y}`;
    before = point;
  }
  return path;
}

function nodeOf(step, place, open) {
  const {x, y, width, height} = place;
  const clipped = (text, size) => (text.length * size > width - 22 ? `${text.slice(0, Math.floor((width - 22) / size) - 1)}…` : text);
  const run = () => open(step.directory);
  const label = `${step.name}: ${step.outcome}${step.seconds === null ? "" : `, ${duration(step.seconds)}`}${step.attempts.length > 1 ? `, ${step.attempts.length} attempts` : ""}`;
  return s("g", {class: `node ${step.outcome.replace(/\W/g, "_")}`, transform: `translate(${x - width / 2} ${y - height / 2})`, tabindex: "0", role: "button", "aria-label": label, onclick: run, onkeydown: onEnter(run)},
    s("title", {}, label),
    s("rect", {class: "box", width, height, rx: 7}),
    s("path", {class: "stripe", d: `M0 7 a7 7 0 0 1 5 -6.7 V${height - 0.3} a7 7 0 0 1 -5 -6.7 z`}),
    s("text", {x: 14, y: 19, class: "name"}, clipped(shortName(step.name), LINE)),
    s("text", {x: 14, y: 35, class: "meta"}, clipped(metaOf(step), 6)),
    step.attempts.length > 1 && s("g", {class: "count"}, s("circle", {cx: width - 13, cy: 13, r: 8}), s("text", {x: width - 13, y: 16.5}, step.attempts.length)));
}

function onEnter(run) {
  return (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    run();
  };
}

function stepTable(steps, open) {
  return table(["step", "result", "took", "attempts", "why"], steps.map((step) => [
    h("button", {class: "link", type: "button", onclick: () => open(step.directory)}, breakable(step.name)),
    chip(step.outcome),
    step.outcome === "reused" ? "" : duration(step.seconds),
    step.attempts.length || "",
    h("div", {class: "why"}, reasonOf(step)),
  ]), {numeric: [2, 3], label: "All steps"});
}

function reasonOf(step) {
  const error = step.failure ? step.failure.error : step.error;
  if (error) return firstLines(error);
  const fields = step.diff.map(([field, old, now]) => `${field} ${shown(old)} → ${shown(now)}`).join("; ");
  return [step.reason, fields || step.detail].filter(Boolean).join(" ") || (step.progress ? progressOf(step.progress) : "");
}

// A step whose process is gone without a word looks as if it ran: its last beat tells.
const progressOf = (progress) => `${progress.text}${progress.beat_age > 60 ? `, last heard of ${age(progress.beat_age)} ago` : ""}`;

// One step in a dialog, which Escape closes.
function detailsOf(step, contents, open) {
  const names = new Map(contents.steps.map((one) => [one.directory, one.name]));
  const users = contents.steps.filter((one) => one.inputs.includes(step.directory));
  const link = (directory) => (names.has(directory) ? h("button", {class: "link", type: "button", onclick: () => open(directory)}, names.get(directory)) : h("code", {}, directory));
  const commas = (items) => items.flatMap((item, index) => (index ? [", ", item] : [item]));
  return [
    h("header", {}, h("h2", {}, step.name), chip(step.outcome)),
    facts([
      ["took", step.seconds === null ? null : duration(step.seconds)],
      ["cost", step.cost],
      ["progress", step.progress && progressOf(step.progress)],
      ["reused from", step.reused_from && (step.reused_from.run || moment(step.reused_from.time))],
      ["reason", [step.action, step.reason, step.detail].filter(Boolean).join(" ") || null],
      ["inputs", step.inputs.length ? commas(step.inputs.map(link)) : null],
      ["used by", users.length ? commas(users.map((one) => link(one.directory))) : null],
      ["kind", step.kind],
      ["output", step.output && h("code", {}, step.output)],
      ["size", step.file_count ? `${bytes(step.size)} in ${plural(step.file_count, "file")}` : null],
    ]),
    step.failure && h("div", {class: "note bad"}, h("b", {}, `Attempt ${step.failure.attempt} failed`), h("p", {class: "error"}, step.failure.error),
      step.failure.location && h("p", {}, h("code", {}, step.failure.location)),
      step.failure.traceback && fold("Traceback", false, h("pre", {tabindex: "0"}, step.failure.traceback))),
    step.diff.length > 0 && fold("Why it ran: what changed", true, table(["field", "before", "now"], step.diff.map(([field, old, now]) => [h("code", {}, field), shown(old), shown(now)]), {label: "Changed fields"})),
    step.log && fold(`Log of attempt ${step.log.attempt}${step.log.left_out ? ", its end" : ""} (${bytes(step.log.size)})`, Boolean(step.failure || step.progress), step.log.text ? h("pre", {class: "log", tabindex: "0"}, step.log.text) : h("p", {}, "It is empty."), h("p", {class: "about"}, h("code", {}, step.log.path))),
    fold("Config", true, configTable(step)),
    step.attempts.length > 0 && fold("Attempts", step.attempts.length > 1, attemptTable(step)),
    step.files.length > 0 && fold("Files", false, table(["file", "size"], step.files.map(([name, size]) => [h("code", {}, name), bytes(size)]), {numeric: [1], label: "Files"}),
      step.file_count > step.files.length && h("p", {class: "about"}, `${step.file_count - step.files.length} more`)),
    fold("Provenance", false, flatTable({function: step.function, resources: step.resources, ...step.provenance, environment: step.environment})),
  ];
}

function configTable(step) {
  if (!Object.keys(step.config).length) return h("p", {class: "about"}, "The store has it once an attempt has ended.");
  return flatTable(step.config);
}

function flatTable(value) {
  const rows = [];
  const walk = (item, path) => {
    if (Array.isArray(item) && item.every((part) => part === null || typeof part !== "object")) rows.push([path, item.map(shown).join(", ")]);
    else if (item !== null && typeof item === "object") {
      const parts = Object.entries(item);
      if (!parts.length) rows.push([path, "{}"]);
      for (const [key, part] of parts) walk(part, path ? `${path}.${key}` : key);
    } else if (item !== undefined && !(item === null && !path.includes("."))) rows.push([path, shown(item)]);
    else if (item === null) rows.push([path, "none"]);
  };
  walk(value, "");
  return table(["field", "value"], rows.map(([field, text]) => [h("code", {}, field), text]), {label: "Fields", class: "fields"});
}

function attemptTable(step) {
  const at = (seconds) => (seconds === null ? "–" : moment(new Date(1000 * seconds).toISOString()));
  return table(["attempt", "result", "claimed", "ran", "where", "launch"], step.attempts.map((attempt) => [
    attempt.number, [chip(attempt.state), attempt.error && h("div", {class: "error"}, firstLines(attempt.error))], at(attempt.claimed),
    attempt.started === null ? "–" : duration((attempt.ended ?? Date.now() / 1000) - attempt.started), `process ${attempt.pid} on ${attempt.host}`, attempt.run || "–",
  ]), {numeric: [0, 3], label: "Attempts"});
}
