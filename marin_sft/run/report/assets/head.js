"use strict";
// What it is: description, command, code, versions, when, where, who; and the figures to look at first.

function headOf(contents, open) {
  const launch = contents.launches[0];
  const counts = {};
  for (const step of contents.steps) counts[step.outcome] = (counts[step.outcome] || 0) + 1;
  const told = contents.launches.map((one) => one.description).filter(Boolean);
  return h("section", {id: "about", class: "head", "aria-label": "What it is"},
    h("div", {class: "title"}, h("h1", {}, contents.title), contents.about === "launch" && chip(launch.status)),
    told.map((text) => h("p", {class: "lead"}, text)),
    h("ul", {class: "figures"}, keyFigures(contents, counts).map(([name, value, about]) =>
      h("li", {}, h("span", {}, name), h("b", {}, value), about && h("small", {}, about)))),
    contents.steps.filter((step) => step.failure).slice(0, 5).map((step) => h("div", {class: "note bad", role: "note"},
      h("button", {class: "link", type: "button", onclick: () => open(step.directory)}, step.name), h("b", {}, " failed"), h("div", {class: "error"}, firstLines(step.failure.error)),
      step.failure.location && h("div", {}, h("code", {}, step.failure.location)))),
    contents.problems.length > 0 && h("div", {class: "note bad", role: "note"},
      h("b", {}, "Some parts could not be read"), h("ul", {}, contents.problems.map((text) => h("li", {}, text)))),
    contents.launches.map((one) => launchFacts(contents, one)));
}

function keyFigures(contents, counts) {
  const states = Object.entries(counts).map(([word, count]) => `${count} ${word}`).join(", ");
  const figures = [["steps", number(contents.steps.length), states]];
  const times = contents.launches.filter((launch) => launch.ended);
  if (contents.about === "launch" && times.length === 1) figures.push(["took", duration(secondsOf(times[0]))]);
  if (contents.cost) figures.push(["cost", contents.cost.total, contents.cost.unknown ? `without ${plural(contents.cost.unknown, "step")}: ${contents.cost.why.join("; ")}` : null]);
  const sweeps = contents.sweeps.filter((sweep) => (sweep.points[0]?.value ?? null) !== null);
  for (const {metric, direction, points} of sweeps.slice(0, 2)) {
    figures.push([`${direction === "max" ? "highest" : "lowest"} ${metric}`, number(points[0].value), `${points[0].point}, of ${plural(points.length, "point")}`]);
  }
  const [few, many] = contents.trainings.length <= 3 ? [contents.trainings, []] : [[], contents.trainings];
  const lost = many.filter((training) => training.metrics.loss).sort((a, b) => a.metrics.loss.value.at(-1) - b.metrics.loss.value.at(-1));
  if (lost.length && !sweeps.length) figures.push(["lowest last loss", number(lost[0].metrics.loss.value.at(-1)), `${lost[0].label}, of ${lost.length} trainings`]);
  for (const training of few) {
    const loss = training.metrics.loss;
    const last = training.last;
    if (loss) figures.push([`loss, ${training.label}`, number(loss.value.at(-1)), `${number(loss.value[0])} at first, ${plural(last.step, "step")}`]);
  }
  for (const group of contents.evaluations.slice(0, 2)) {
    const first = group.metrics[0];
    if (!first) continue;
    const values = first.values.filter((value) => value !== null);
    const text = first.name.includes("match") ? (value) => percent(value) : number;
    if (values.length) figures.push([`${first.name.replace(/_/g, " ")}, ${group.steps.at(-1).label}`, text(values.at(-1)), values.length > 1 ? `${text(values[0])} before` : null]);
  }
  return figures;
}

const secondsOf = (launch) => (Date.parse(launch.ended) - Date.parse(`${launch.time.replace(" ", "T")}Z`)) / 1000;

function launchFacts(contents, launch) {
  const files = launch.changed_files;
  const changed = !launch.uncommitted_changes ? "" : files && files.length ? ` and changes in ${files.join(", ")}` : " and uncommitted changes";
  const packages = Object.entries(launch.packages || {});
  return h("div", {class: "launch"},
    facts([
      ["launch", h("code", {}, launch.run)],
      ["command", h("code", {}, ["python", ...(launch.argv || [])].join(" "))],
      ["began", `${launch.time} UTC`],
      ["ended", launch.ended ? `${moment(launch.ended)}, after ${duration(secondsOf(launch))}` : launch.status],
      ["by", launch.user && `${launch.user} on ${launch.host}`],
      ["code", launch.git_commit ? [h("code", {}, launch.git_commit.slice(0, 12)), changed] : "not in a git repository"],
      ["store", h("code", {}, contents.prefix)],
      ["versions", [launch.python && `python ${launch.python}`, ...Object.entries(launch.versions || {}).map(([name, version]) => `${name} ${version}`)].filter(Boolean).join(" · ")],
    ]),
    packages.length > 0 && fold(`All ${packages.length} packages`, false,
      h("p", {class: "packages"}, packages.map(([name, version]) => `${name} ${version}`).join(" · "))));
}
