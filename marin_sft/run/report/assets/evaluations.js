"use strict";
// Evaluations of the same prompts: their figures, and answers side by side with differences marked.

function evaluationsOf(contents) {
  if (!contents.evaluations.length && !contents.export_tables.length) return null;
  return section("evaluation", "Evaluation", null, contents.export_tables.map(exportTableOf), contents.evaluations.map(groupOf));
}

// The exports of a training, each evaluated.
function exportTableOf(one) {
  const names = Object.keys(one.metrics);
  const steps = [...new Set(names.flatMap((name) => one.metrics[name].step))].sort((a, b) => a - b);
  const at = (name, step) => number(one.metrics[name].value[one.metrics[name].step.indexOf(step)]);
  const state = {axis: "step", smooth: 0, hidden: new Set(), log: false};
  return h("div", {class: "evaluation"}, h("h3", {}, one.name),
    table(["training step", ...names], steps.map((step) => [number(step), ...names.map((name) => at(name, step))]), {numeric: [0, ...names.map((_, index) => index + 1)], label: "Figures of each export"}),
    drawnCharts(h("div", {class: "grid"}), () => names.map((name) => chartOf(name, [{...one, label: shortName(one.name)}], state))).grid);
}

function groupOf(group) {
  const names = group.steps.map((step) => step.label);
  const several = names.length > 1;
  const heads = ["metric", ...names, ...(several ? ["change"] : [])];
  const asShare = (name) => /match|stopped|accuracy|acc$|acc_norm$/.test(name);
  const rows = group.metrics.map(({name, values}) => {
    const text = asShare(name) ? (value) => percent(value) : (value) => number(value);
    const change = values.at(-1) !== null && values[0] !== null ? values.at(-1) - values[0] : null;
    const changed = change === null ? "–" : `${change > 0 ? "+" : change < 0 ? "−" : "±"}${text(Math.abs(change)).replace("%", " points")}`;
    return [name.replace(/_/g, " "), ...values.map((value) => (value === null ? "–" : text(value))), ...(several ? [changed] : [])];
  });
  return h("div", {class: "evaluation"}, h("h3", {}, names.join(" → ")),
    rows.length > 0 ? table(heads, rows, {numeric: heads.map((_, index) => index).slice(1), label: "Figures"}) : h("p", {class: "about"}, "No figures yet."),
    group.unreadable > 0 && h("p", {class: "note"}, `${plural(group.unreadable, "line")} of the samples could not be read.`),
    group.samples.length > 0 && fold(`${group.samples.length} of ${number(group.sample_count)} prompts with their answers`, true,
      several && h("p", {class: "legend"}, h("del", {}, "only in the first"), " ", h("ins", {}, "only in the last")),
      sampleKinds(group, names)));
}

function sampleKinds(group, names) {
  const kinds = [...new Set(group.samples.map((sample) => sample.kind))];
  return kinds.map((kind) => {
    const samples = group.samples.filter((sample) => sample.kind === kind);
    return h("div", {}, kinds.length > 1 && h("h4", {}, kind === "other" ? "Others" : kind[0].toUpperCase() + kind.slice(1), h("small", {}, ` ${samples.length} of ${number(samples[0].of_kind)}`)), samples.map((sample) => answersOf(sample, names)));
  });
}

function answersOf(sample, names) {
  const texts = sample.answers.map((answer) => (answer ? textOfAnswer(answer.text) : null));
  const marked = texts.length > 1 && texts[0] !== null && texts.at(-1) !== null ? wordsMarked(texts[0], texts.at(-1)) : null;
  const body = (index) => (texts[index] === null ? h("em", {}, "no answer") : marked && index === 0 ? marked[0] : marked && index === texts.length - 1 ? marked[1] : texts[index] || h("em", {}, "empty"));
  return h("article", {class: "answers"},
    h("div", {class: "prompt"}, h("small", {}, ["prompt", sample.set].filter(Boolean).join(" · ")), promptOf(sample.prompt)),
    h("div", {class: "columns"},
      sample.answers.map((answer, index) => h("div", {class: answer && answer.right === true ? "right" : answer && answer.right === false ? "wrong" : null},
        h("small", {}, names[index], answer && answer.right !== null && h("b", {}, answer.right ? " ✓ right" : " ✗ wrong"), answer && answer.finish === "length" && " · cut off"), h("p", {class: "text"}, body(index)))),
      sample.reference !== null && sample.reference !== undefined && h("div", {class: "reference"}, h("small", {}, "reference"), h("p", {class: "text"}, textOfAnswer(sample.reference)))));
}

const textOfAnswer = (value) => (typeof value === "string" ? value : value === null || value === undefined ? "" : value.content ?? JSON.stringify(value));

function promptOf(prompt) {
  if (!Array.isArray(prompt)) return h("p", {class: "text"}, textOfAnswer(prompt));
  return prompt.map((message) => h("p", {class: "text"}, h("b", {}, `${message.role ?? "?"} `), textOfAnswer(message.content ?? message)));
}

// The words of two texts, with those marked that are not in their longest common subsequence.
function wordsMarked(before, after) {
  const [a, b] = [before, after].map((text) => text.match(/\s+|[^\s]+/g) || []);
  if (a.length * b.length > 400000) return [[before], [after]];
  const lengths = Array.from({length: a.length + 1}, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) for (let j = b.length - 1; j >= 0; j--) lengths[i][j] = a[i] === b[j] ? lengths[i + 1][j + 1] + 1 : Math.max(lengths[i + 1][j], lengths[i][j + 1]);
  if (!a.some((word) => word.trim() && b.includes(word))) return [[before || h("em", {}, "empty")], [after || h("em", {}, "empty")]]; // all of it differs
  const left = [], right = [];
  let i = 0, j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) (left.push(a[i]), right.push(b[j]), i++, j++);
    else if (j >= b.length || (i < a.length && lengths[i + 1][j] >= lengths[i][j + 1])) left.push(h("del", {}, a[i++]));
    else right.push(h("ins", {}, b[j++]));
  }
  return [left.length ? left : [h("em", {}, "empty")], right.length ? right : [h("em", {}, "empty")]];
}
