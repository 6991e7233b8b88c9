"use strict";
// What was trained on: datasets, sample rows, dropped rows, and mixtures.

function dataOf(contents) {
  if (!contents.datasets.length && !contents.mixtures.length) return null;
  return section("data", "Data", null, contents.datasets.length > 0 && overviewOf(contents.datasets),
    contents.datasets.map(datasetOf), contents.mixtures.map(mixtureOf));
}

function overviewOf(datasets) {
  const rows = datasets.flatMap((one) => Object.entries(one.splits).map(([split, about]) => {
    const lost = Object.values(about.dropped || {}).reduce((sum, count) => sum + count, 0);
    return [one.name, split, number(about.rows), number(lost), number(about.documents), number(about.tokens), shareBar(about.trained_tokens, about.tokens)];
  }));
  return table(["dataset", "split", "rows", "dropped", "documents", "tokens", "trained tokens"], rows, {numeric: [2, 3, 4, 5], label: "Datasets"});
}

function shareBar(part, whole) {
  const share = whole ? part / whole : 0;
  return h("span", {class: "share"}, h("span", {class: "meter", "aria-hidden": "true"}, h("i", {style: {width: `${100 * share}%`}})), h("span", {class: "n"}, number(part)), h("small", {}, percent(share)));
}

function datasetOf(one) {
  return h("div", {class: "dataset"}, h("h3", {}, one.name),
    one.problem && h("p", {class: "note"}, one.problem),
    Object.entries(one.splits).map(([split, about]) => h("div", {},
      Object.keys(one.splits).length > 1 && h("h4", {}, split), reasonsOf(one, about),
      about.edges && h("div", {class: "pair"}, histogram(`Tokens of a document (median ${number(about.median)}, longest ${number(about.longest)})`, about.edges, about.lengths, "--muted-mark"),
        histogram("Trained tokens of a document", about.edges, about.trained, "--trained")),
      about.samples && about.samples.length > 0 && fold(`${about.samples.length} of ${number(about.documents)} documents, trained tokens coloured`, true, h("p", {class: "legend"}, h("span", {class: "t on"}, "trained"), " ", h("span", {class: "t"}, "context, not trained"), " · ⏎ is a line break"), h("div", {class: "samples"}, about.samples.map(sampleRow))))),
    one.dropped.length > 0 && fold(`${one.dropped.length} dropped rows, and why`, false, table(["file", "line", "reason", "what is wrong", "row"],
      one.dropped.map((row) => [row.file, number(row.line), row.reason, row.message, h("code", {class: "row"}, shown(row.row))]), {numeric: [1], label: "Dropped rows"}),
      one.dropped_more > 0 && h("p", {class: "about"}, `${one.dropped_more} more are in the output's dropped.jsonl.`)));
}

function reasonsOf(one, about) {
  const dropped = Object.entries(about.dropped || {}).filter(([, count]) => count > 0);
  const kept = about.rows - dropped.reduce((sum, [, count]) => sum + count, 0);
  if (!dropped.length) return h("p", {class: "about"}, `All ${number(about.rows)} rows were kept.`);
  return table(["rows", "count", "share"], [["kept", number(kept), percent(kept / about.rows)],
    ...dropped.map(([reason, count]) => [`dropped: ${reason}${one.on_purpose.includes(reason) ? " (on purpose)" : ""}`, number(count), percent(count / about.rows)])], {numeric: [1, 2], label: "Rows by what became of them"});
}

function histogram(label, edges, counts, fill) {
  const items = edges.map((edge, index) => ({name: index === edges.length - 1 ? `${number(edge)} and more` : `${number(edge)} to ${number(edges[index + 1] - 1)}`, value: counts[index], color: fill}));
  return bars(label, items);
}

function sampleRow(sample) {
  const cut = sample.texts.length < sample.tokens;
  return h("article", {class: "sample"},
    h("p", {class: "about"}, `document ${number(sample.document)}`, sample.role && ` · ${sample.role}`, ` · ${plural(sample.tokens, "token")}, ${number(sample.trained)} trained${cut ? `; the first ${sample.texts.length} are shown` : ""}`),
    h("p", {class: "tokens"}, sample.texts.map((text, index) => h("span", {class: sample.mask[index] === "1" ? "t on" : "t"}, text.replace(/\n/g, "⏎\n")))));
}

function mixtureOf(one) {
  const names = Object.keys(one.components);
  const trained = names.filter((name) => one.components[name].train);
  const facts = [`rows of ${number(one.seq_len)} tokens`, one.over_length && `longer documents: ${one.over_length}`, one.stop_strategy && `at the end of a component: ${one.stop_strategy.replace("_", " ")}`];
  return h("div", {class: "dataset"}, h("h3", {}, one.name), h("p", {class: "about"}, facts.filter(Boolean).join(" · ")),
    table(["component", "split", "documents", "rows", "tokens", "trained tokens", "left out"], names.flatMap((name) => Object.entries(one.components[name]).map(([split, part]) => [
      name, split, number(part.documents), number(part.rows), number(part.tokens), number(part.trained_tokens),
      Object.entries(part.dropped || {}).filter(([, count]) => count > 0).map(([reason, count]) => `${reason} ${number(count)}`).join(", ") || "0"])), {numeric: [2, 3, 4, 5], label: "Components"}),
    trained.length > 0 && one.stages.map((stage) => stageOf(one, stage, trained)));
}

function stageOf(one, stage, names) {
  const heads = ["component", one.weights_are ? `asked (${one.weights_are})` : "asked", "rows", "trained tokens", "seen per epoch", ...one.trainings.map((user) => `seen in ${shortName(user.name)}`)];
  const often = (value) => (value === null || value === undefined ? "–" : `${value.toFixed(2)} ×`);
  const rows = names.map((name) => [name, stage.asked ? percent(stage.asked[name]) : "–", percent(stage.rows[name]), percent(stage.trained_tokens[name]), often(stage.times_seen_per_epoch[name]),
    ...one.trainings.map((user) => often(user.epochs === null || one.stages.length > 1 ? null : user.epochs * stage.times_seen_per_epoch[name]))]);
  return h("div", {}, one.stages.length > 1 && h("h4", {}, `from step ${number(stage.start_step)}`),
    table(heads, rows, {numeric: heads.map((_, index) => index).slice(1), label: "What was asked for and what came of it"}),
    names.length > 1 && h("div", {class: "mix"}, [["asked", stage.asked], ["rows", stage.rows], ["trained tokens", stage.trained_tokens]].filter(([, shares]) => shares).map(([label, shares]) =>
      h("div", {class: "stack"}, h("span", {}, label), h("span", {class: "meter", role: "img", "aria-label": names.map((name) => `${name} ${percent(shares[name])}`).join(", ")}, names.map((name, index) => h("i", {title: `${name} ${percent(shares[name])}`, style: {width: `${100 * shares[name]}%`, background: `var(${runColor(index)})`}}))))),
      h("p", {class: "legend"}, names.map((name, index) => h("span", {class: "chip"}, h("i", {style: {background: `var(${runColor(index)})`}}), name)))));
}
