"use strict";
// Exported models: files, sizes, checks, and how to load them.

function exportsOf(contents) {
  if (!contents.exports.length) return null;
  return section("exports", "Exports", null, contents.exports.map(exportOf));
}

function exportOf(one) {
  const model = Object.entries(one.model).map(([name, value]) => `${name.replace(/_/g, " ")} ${Array.isArray(value) ? value.join(", ") : number(value)}`);
  return h("div", {class: "export"}, h("h3", {}, one.name),
    facts([["path", h("code", {}, one.path)], ["parameters", one.parameters ? `${number(one.parameters)} (${one.types.join(", ")})` : null], ["model", model.join(" · ")], ["size", `${bytes(one.size)} in ${plural(one.files.length, "file")}`]]),
    h("ul", {class: "checks"}, one.checks.map((check) => h("li", {class: check.good ? "good" : "bad"}, h("b", {}, check.good ? "✓" : "✗"), check.text))),
    h("div", {class: "load"}, one.load.map((item) => h("div", {}, h("small", {}, item.for), copied(item.code)))),
    fold("Files", false, table(["file", "size"], one.files.map(([name, size]) => [h("code", {}, name), bytes(size)]), {numeric: [1], label: "Files of the export"})));
}
