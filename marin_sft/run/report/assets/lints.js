"use strict";
// What lint steps found in rows: a table by component, samples of each finding, and what is usual in the rows.

function lintsOf(contents) {
  if (!contents.lints.length) return null;
  return section("findings", "Findings in rows", null, contents.lints.map(lintOf));
}

function lintOf(one) {
  const names = Object.keys(one.components);
  const found = Object.keys(one.about).filter((finding) => names.some((name) => one.components[name].findings[finding]));
  return h("div", {class: "dataset"}, h("h3", {}, one.name),
    found.length > 0 ? findingsTable(one, names, found) : h("p", {class: "about"}, `Nothing was found in ${plural(one.rows, "row")}.`),
    found.map((finding) => samplesOfFinding(one, names, finding)),
    one.unreadable > 0 && h("p", {class: "note"}, `${plural(one.unreadable, "line")} of the samples could not be read.`),
    one.across.length > 0 && h("div", {}, h("h4", {}, "Copies across components"), table(["finding", "rows of", "are in", "rows"], one.across.map((pair) => [pair.finding, pair.component, pair.of, number(pair.count)]), {numeric: [3], label: "Copies across components"})),
    testSetsOf(one), fold("Lengths and scripts of all rows", false, usualOf(one, names)));
}

function findingsTable(one, names, found) {
  const cell = (name, finding) => {
    const count = one.components[name].findings[finding];
    if (!count) return "–";
    const most = one.fail_above[finding];
    return h("span", {class: most !== undefined && count.share > most ? "toomany" : null}, number(count.count), h("small", {}, ` ${percent(count.share)}`));
  };
  const rows = found.map((finding) => [h("span", {class: "finding"}, finding, h("small", {}, one.about[finding])), ...names.map((name) => cell(name, finding))]);
  const all = ["rows looked at", ...names.map((name) => number(one.components[name].rows))];
  return table(["finding", ...names], [...rows, all], {numeric: names.map((_, index) => index + 1), label: "Findings by component"});
}

function samplesOfFinding(one, names, finding) {
  const samples = one.samples.filter((sample) => sample.finding === finding);
  const count = names.reduce((sum, name) => sum + (one.components[name].findings[finding]?.count || 0), 0);
  if (!samples.length) return null;
  return fold(`${finding}: ${samples.length} of ${plural(count, "row")}`, false, h("div", {class: "samples"}, samples.map((sample) => lintSample(sample, names.length > 1))));
}

function lintSample(sample, named) {
  const place = (at) => [named && at.component, `${at.file}:${at.line}`].filter(Boolean).join(" ");
  const other = sample.other;
  return h("article", {class: "sample"},
    h("p", {class: "about"}, h("b", {}, place(sample)), ` · ${sample.message}`),
    h("p", {class: "tokens"}, sample.text),
    other && h("p", {class: "about"}, h("b", {}, place(other)), other.text === sample.text && " · the same text"),
    other && other.text !== sample.text && h("p", {class: "tokens"}, other.text));
}

function testSetsOf(one) {
  const sets = Object.entries(one.test_sets);
  if (!sets.length) return null;
  return h("div", {}, h("h4", {}, "Test sets"), table(["test set", "prompts", "in the rows", "share"], sets.map(([name, set]) => [name, number(set.prompts), number(set.leaked), percent(set.leaked / set.prompts)]), {numeric: [1, 2, 3], label: "Test sets"}));
}

function usualOf(one, names) {
  const parts = ["prompt", "answer", "rejected"];
  const bias = (pairs) => (pairs ? `${number(pairs.longer)} longer, ${number(pairs.shorter)} shorter than the rejected one` : "–");
  const rows = names.flatMap((name) => Object.entries(one.components[name].lengths).sort(([a], [b]) => parts.indexOf(a) - parts.indexOf(b)).map(([part, lengths]) => [name, part, number(lengths.median), number(lengths.mean), number(lengths.longest), part === "answer" ? bias(one.components[name].length_bias) : ""]));
  const scripts = names.map((name) => [name, Object.entries(one.components[name].scripts).map(([script, count]) => `${script} ${number(count)}`).join(", ") || "–"]);
  return h("div", {}, table(["component", "characters of the", "median", "mean", "longest", "chosen answers"], rows, {numeric: [2, 3, 4], label: "Lengths"}),
    table(["component", "rows by main script"], scripts, {label: "Scripts"}));
}
