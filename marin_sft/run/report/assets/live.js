"use strict";
// The same pages from a server: asked again while something runs, with the log of an open step followed.

const statuses = new Map(); // of launches, by name
const here = new URL(location.href);
let last = "";

async function asked(path) {
  const answer = await fetch(path, {headers: {Accept: "application/json"}});
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
}

function showProblem(error) {
  const note = document.getElementById("problem") || document.getElementById("main").insertAdjacentElement("afterbegin", h("div", {class: "note bad", id: "problem", role: "alert"}));
  note.textContent = `${error.message}. What you see may be old.`;
}

// Draws again without moving the page under the reader.
function keepingPlace(draw) {
  const main = document.getElementById("main");
  const folds = new Map([...main.querySelectorAll("details")].map((part, index) => [`${index} ${part.querySelector("summary").textContent.replace(/\d+/g, "")}`, part.open]));
  const focused = document.activeElement?.type === "search";
  const top = scrollY;
  main.style.setProperty("min-height", `${main.offsetHeight}px`);
  draw();
  [...main.querySelectorAll("details")].forEach((part, index) => {
    const open = folds.get(`${index} ${part.querySelector("summary").textContent.replace(/\d+/g, "")}`);
    if (open !== undefined) part.open = open;
  });
  scrollTo(0, top);
  if (focused) {
    const search = main.querySelector("input[type=search]");
    search?.focus();
    search?.setSelectionRange(search.value.length, search.value.length);
  }
  setTimeout(() => main.style.removeProperty("min-height"), 400);
}

async function overview() {
  const found = await asked("/api/overview");
  keepingPlace(() => showOverview(found, statuses));
  for (const launch of (await asked("/api/launches")).launches) statuses.set(launch.run, launch);
  keepingPlace(() => showOverview(found, statuses));
  return [true, found.every];
}

async function report() {
  const found = await asked(`/api/contents${here.search}`);
  const {made, every, ...rest} = found;
  const text = JSON.stringify(rest);
  document.title = found.title;
  if (text !== last) keepingPlace(() => show(found, [h("a", {href: "/"}, "← all launches")]));
  last = text;
  const going = found.launches.some((launch) => !launch.ended) || found.steps.some((step) => step.outcome === "running");
  return [going, every];
}

async function again() {
  let every = 5, going = true;
  try {
    if (!document.hidden) [going, every] = await (here.pathname === "/" ? overview() : report());
    if (!document.hidden) document.getElementById("problem")?.remove();
  } catch (error) {
    showProblem(error);
  }
  if (going) setTimeout(again, 1000 * every);
}

let following = 0;
opened.push(async (step) => {
  const mine = (following += 1);
  const log = dialog.querySelector(".log");
  if (!log || !["running", "waiting"].includes(step.outcome)) return;
  let offset = step.log.size;
  while (mine === following && dialog.open && log.isConnected) {
    try {
      const more = await asked(`/api/log?directory=${encodeURIComponent(step.directory)}&attempt=${step.log.attempt}&offset=${offset}`);
      const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
      log.append(more.text);
      offset = more.offset;
      if (atEnd) log.scrollTop = log.scrollHeight;
      if (more.ended) return;
      await new Promise((resolve) => setTimeout(resolve, 1000 * more.every));
    } catch (error) {
      return showProblem(error);
    }
  }
});

again();
