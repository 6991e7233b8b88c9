"use strict";
// All launches and steps under the prefix.

const MOST_ROWS = 400;
const BAD = ["FAILED", "DAMAGED", "RUNNING", "INTERRUPTED", "ABSENT", "COMMITTED"];
const chosen = new Set(); // launches to compare
let wanted = ""; // what step names are filtered by

function showOverview(found, statuses) {
  const parts = [
    h("section", {class: "head", "aria-label": "What it is"}, h("h1", {}, "marin-sft"), h("p", {class: "lead"}, h("code", {}, found.prefix))),
    launchList(found, statuses), stepList(found),
  ];
  const links = [["launches", "Launches"], ["steps", "Steps"]].map(([id, text]) => h("a", {href: `#${id}`}, text));
  fill(h("a", {class: "home", href: "#main"}, "marin-sft"), links, parts, `As of ${moment(found.made)}.`);
}

const pageOf = (...names) => `/page?${names.map((name) => `of=${encodeURIComponent(name)}`).join("&")}`;

function launchList(found, statuses) {
  const compare = h("button", {class: "theme", type: "button", disabled: chosen.size < 2, onclick: () => location.assign(pageOf(...[...chosen].sort()))}, "compare the chosen");
  const box = (launch) => h("input", {type: "checkbox", "aria-label": `compare ${launch.run}`, checked: chosen.has(launch.run), onchange: (event) => {
    chosen[event.target.checked ? "add" : "delete"](launch.run);
    compare.disabled = chosen.size < 2;
  }});
  const word = (launch) => statuses.get(launch.run);
  const results = (launch) => Object.entries(word(launch)?.results || {}).map(([result, count]) => `${count} ${result}`).join(", ");
  return section("launches", "Launches", found.launches.length ? null : "None is recorded here.",
    found.launches.length > 0 && [h("div", {class: "controls"}, compare, h("span", {}, "curves, evaluations and configs side by side")),
      table(["", "launch", "when, UTC", "status", "results"], found.launches.map((launch) => [
        box(launch), h("a", {href: pageOf(launch.run)}, launch.script), launch.time, chip(word(launch)?.status || (launch.ended ? "ended" : "not ended")), results(launch)]), {label: "Launches"}),
      found.more_launches > 0 && h("p", {class: "about"}, `${number(found.more_launches)} older ones are not listed.`)]);
}

function stepList(found) {
  const counts = {};
  for (const step of found.steps) counts[step.state] = (counts[step.state] || 0) + 1;
  const holder = h("div", {});
  const draw = () => {
    const there = found.steps.filter((step) => step.name.includes(wanted)).sort((a, b) => BAD.indexOf(a.state) - BAD.indexOf(b.state) || a.age - b.age);
    holder.replaceChildren(table(["step", "state", "took", "age", "news"], there.slice(0, MOST_ROWS).map((step) => [
      step.output || step.state !== "ABSENT" ? h("a", {href: pageOf(step.directory)}, step.name) : step.name,
      chip(step.state.toLowerCase()), step.seconds === null ? "" : duration(step.seconds), step.age === null ? "" : age(step.age), step.news]), {numeric: [2, 3], label: "Steps"}),
      there.length > MOST_ROWS ? h("p", {class: "about"}, `${number(there.length - MOST_ROWS)} more; filter them by a part of their name.`) : "");
  };
  draw();
  return section("steps", "Steps", Object.entries(counts).map(([state, count]) => `${number(count)} ${state.toLowerCase()}`).join(", "),
    h("div", {class: "controls"}, h("label", {}, "names with ", h("input", {type: "search", value: wanted, oninput: (event) => {
      wanted = event.target.value;
      draw();
    }}))), holder);
}
