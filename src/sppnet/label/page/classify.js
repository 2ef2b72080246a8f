// The page for whole photographs: one on the screen, a key a class, the likeliest class suggested.

import { ask, photoPath } from "./api.js";
import { colour } from "./drawing.js";
import { showCurve, showFolder, showLearned, showRows } from "./figures.js";
import { showClasses } from "./lists.js";
import { read } from "./pictures.js";
import { Strip } from "./strip.js";

const at = (place) => document.querySelector(place);
const RETRY_MS = 4000;
const NOTHING_YET = "Label photographs of two classes, and suggestions begin.";

let session = null;
let photo = null; // as the server described it last
let next = null;
let nextFound = null; // settles once `next` is known
let busy = true;
const past = []; // what photographs had before they were changed

const strip = new Strip(at("#strip"), at("#tiles"), (number) => busy || open(number));

function tell(text, wrong = false) {
  at("#status").textContent = text;
  at("#status").classList.toggle("wrong", wrong);
}

// --- showing --------------------------------------------------------------------------------------

const colourOf = (name) => colour(Math.max(0, session.classes.indexOf(name)));
const suggested = () => (photo?.label === null && photo.suggestions?.[0]?.label) || null;

function refresh() {
  showClasses(session, photo?.label, colourOf, (index) => give(session.classes[index]), suggested());
  at("#accept").disabled = !suggested();
  at("#accept").textContent = suggested() ? `Accept “${suggested()}”` : "Accept";
  at("#clear").disabled = !photo?.label;
  at("#undo").disabled = !past.length;
}

function showSession() {
  showFolder(session);
  const { figures } = session;
  const right = figures.right === null ? "–" : `${Math.round(figures.right * 100)} %`;
  showRows([["right suggestions", right], ["photographs a minute", figures.photographs_a_minute ?? "–"]],
    "Of the last 20 photographs, each judged before it was labelled.");
  showCurve(figures.curve);
  at("#command").textContent = session.command;
  showLearned(session.learning, NOTHING_YET);
}

// --- photographs ----------------------------------------------------------------------------------

async function open(number, said = "") {
  busy = true;
  strip.show(number);
  const place = at("#photo");
  try {
    const described = await ask(photoPath(number));
    const picture = await read(number);
    photo = described;
    place.src = picture.src;
    place.alt = described.name;
    at("#empty").hidden = true;
    tell(said || (described.label ? `Labelled ${described.label}.` : ""));
  } catch (error) {
    photo = { id: number, state: "unreadable", label: null, suggestions: [], revision: 0 };
    place.removeAttribute("src");
    strip.set(number, "unreadable");
    at("#empty").hidden = false;
    at("#empty").textContent = error.message;
  }
  location.replace(`#${number}`);
  at("#name").textContent = strip.names[number];
  nextFound = findNext();
  busy = false;
  refresh();
  document.body.dataset.ready = "yes";
}

async function findNext() {
  try {
    ({ next } = await ask(photoPath(photo.id, `/show?order=${at("#order").value}`), "POST"));
    if (next !== null) read(next).catch(() => {}); // into the browser's memory, so that it is there at once
  } catch (error) {
    tell(error.message, true);
  }
}

const neighbour = (by) => open(Math.min(strip.names.length - 1, Math.max(0, photo.id + by)));

// --- changing -------------------------------------------------------------------------------------

async function keep(number, label, revision) {
  const kept = await ask(photoPath(number), "PUT", { label, revision });
  strip.set(number, kept.state);
  return kept;
}

async function give(label) {
  if (busy || !photo || photo.state === "unreadable" || label === photo.label) return;
  busy = true;
  const { id, label: before } = photo;
  try {
    Object.assign(photo, await keep(id, label, photo.revision));
    past.push({ id, label: before });
    refresh();
    await nextFound;
    const said = label ? `${strip.names[id]}: ${label}.` : "No class.";
    if (label === null || before !== null) tell(said);
    else if (next === null) tell("All photographs are labelled.");
    else return await open(next, said);
  } catch (error) {
    if (error.status === 409) await open(id);
    tell(error.message, true);
  } finally {
    busy = false;
  }
}

async function undo() {
  if (busy || !past.length) return;
  const last = past.pop();
  try {
    await keep(last.id, last.label, null);
    await open(last.id, "Undone.");
  } catch (error) {
    past.push(last);
    tell(error.message, true);
  }
}

// --- what happens elsewhere -----------------------------------------------------------------------

async function follow() {
  for (;;) {
    try {
      session = await ask(`/v1/changes?since=${session.sequence}`);
      for (const { id, state } of session.changed) strip.set(id, state);
      const mine = session.changed.find(({ id }) => id === photo?.id);
      if (mine && mine.revision > photo.revision && !busy) await open(photo.id, "Changed in another tab.");
      await takeSuggestions();
      showSession();
    } catch (error) {
      tell(error.message, true);
      await new Promise((wake) => setTimeout(wake, RETRY_MS));
    }
  }
}

async function takeSuggestions() {
  const shown = photo;
  if (!shown || busy || shown.state === "unreadable") return;
  const found = await ask(photoPath(shown.id, "/suggestions"));
  if (shown !== photo || busy) return;
  Object.assign(photo, found);
  refresh();
}

// --- the beginning --------------------------------------------------------------------------------

function pressed(event) {
  if (event.target.closest("input, select, textarea, dialog") || event.altKey || event.metaKey) return;
  if (event.ctrlKey) {
    if (event.key.toLowerCase() !== "z") return;
    event.preventDefault();
    undo();
    return;
  }
  if (event.key === "Enter" && event.target.closest("button")) return;
  const number = "1234567890".indexOf(event.key);
  const plain = {
    Enter: () => suggested() && give(suggested()), ArrowLeft: () => neighbour(-1), ArrowRight: () => neighbour(1),
    Delete: () => give(null), Backspace: () => give(null), "?": () => at("#help").showModal(),
  }[event.key];
  const act = number >= 0 && session.classes[number] ? () => give(session.classes[number]) : plain;
  if (!act) return;
  event.preventDefault();
  if (!busy) act();
}

async function begin() {
  session = await ask("/v1/session");
  const { names, states } = await ask("/v1/photos");
  strip.load(names, states);
  showSession();
  const asked = Number.parseInt(location.hash.slice(1), 10);
  const first = states.findIndex((state) => state !== "done" && state !== "unreadable");
  await open(asked >= 0 && asked < names.length ? asked : Math.max(0, first));
  if (session.omitted.length) tell(session.omitted[0], true);
  if (!session.classes.length) at("#class-name").focus();
  follow();
}

for (const [place, act] of Object.entries({
  "#before": () => neighbour(-1), "#after": () => neighbour(1), "#accept": () => suggested() && give(suggested()),
  "#clear": () => give(null), "#undo": undo, "#help-open": () => at("#help").showModal(),
})) at(place).addEventListener("click", () => busy || act());
at("#order").addEventListener("change", () => { nextFound = findNext(); });
at("#add-class").addEventListener("submit", async (event) => {
  event.preventDefault();
  const field = at("#class-name");
  try {
    const added = await ask("/v1/classes", "POST", { name: field.value });
    session.classes = added.classes;
    field.value = "";
    field.blur();
    refresh();
  } catch (error) {
    tell(error.message, true);
  }
});
addEventListener("keydown", pressed);
setInterval(() => session && showLearned(session.learning, NOTHING_YET), 500);
begin().catch((error) => tell(error.message, true));
