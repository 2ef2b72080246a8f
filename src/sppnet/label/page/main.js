// The page: one photograph on the screen, its boxes saved with every change, suggestions as they come.

import { makeActions } from "./actions.js";
import { ask, photoPath } from "./api.js";
import { Canvas } from "./canvas.js";
import { colour, draw } from "./drawing.js";
import { Editing } from "./editing.js";
import { nothingYet, showFigures, showLearned } from "./figures.js";
import { listen } from "./keys.js";
import { showBoxes, showClasses } from "./lists.js";
import { read } from "./pictures.js";
import { Strip } from "./strip.js";
import { watchTraining } from "./training.js";

const at = (place) => document.querySelector(place);
const RETRY_MS = 4000;

const editing = new Editing();
let session = null;
let photo = null; // as the server described it last
let image = null;
let next = null;
let label = null; // the class of the next box
let copied = [];
let saving = null;
let unsaved = false;
let loading = true;

const canvas = new Canvas(at("#canvas"), editing, {
  redraw, label: () => label, busy: () => loading,
  select: (key) => { editing.selected = key; refresh(); },
  accept: (keys) => changed(editing.accept(keys)),
  refuse: (keys) => changed(editing.refuse(keys)),
  add: (box) => actions.addBox(box),
  replace: (key, change) => changed(editing.replace(key, change)),
});
const strip = new Strip(at("#strip"), at("#tiles"), (number) => leaveFor(number));

// --- saying things -------------------------------------------------------------------------------

function tell(text, wrong = false) {
  at("#status").textContent = text;
  at("#status").classList.toggle("wrong", wrong);
}

// --- drawing -------------------------------------------------------------------------------------

const colourOf = (name) => colour(Math.max(0, session.classes.indexOf(name)));

function redraw() {
  const place = at("#canvas");
  const { width, height } = canvas.size;
  const wanted = [Math.round(width * devicePixelRatio), Math.round(height * devicePixelRatio)];
  if (place.width !== wanted[0] || place.height !== wanted[1]) {
    [place.width, place.height] = wanted;
    if (canvas.fitted) canvas.fit();
  }
  draw(place.getContext("2d"), canvas.size, image, canvas.view, editing, colourOf, canvas.dragged);
}

function showLists() {
  showClasses(session, editing.find()?.label ?? label, colourOf, (index) => actions.chooseClass(index));
  showBoxes(editing, photo?.state === "done", colourOf, (key) => { editing.selected = key; refresh(); });
}

function refresh() {
  redraw();
  showLists();
  const count = editing.suggestions.length;
  at("#accept").disabled = !count;
  at("#accept-count").textContent = count > 1 ? `all ${count}` : count ? "it" : "";
  at("#nothing").disabled = editing.boxes.length > 0;
  at("#copy").disabled = !copied.length;
  at("#undo").disabled = !editing.past.length;
  at("#redo").disabled = !editing.future.length;
}

// --- photographs ---------------------------------------------------------------------------------

async function leaveFor(number) {
  if (number === null || number === photo?.id) return;
  loading = true;
  await settle();
  if (photo && editing.boxes.length) copied = editing.boxes.map(({ label: name, box }) => ({ label: name, box }));
  await open(number);
}

async function open(number) {
  loading = true; // what is pressed meanwhile is not meant for the photograph before
  strip.show(number);
  try {
    const described = await ask(photoPath(number));
    const picture = await read(number);
    photo = described;
    image = picture;
    editing.load(described);
    canvas.fit(described.width, described.height);
    at("#empty").hidden = true;
    tell(described.state === "done" ? "Done; changes are kept." : "");
  } catch (error) {
    photo = { id: number, state: "unreadable", revision: 0 };
    image = null;
    editing.clear();
    strip.set(number, "unreadable");
    at("#empty").hidden = false;
    at("#empty").textContent = error.message;
  }
  location.replace(`#${number}`);
  loading = false;
  at("#name").textContent = strip.names[number];
  refresh();
  document.body.dataset.ready = "yes";
  ({ next } = await ask(photoPath(number, `/show?order=${at("#order").value}`), "POST"));
  if (next !== null) read(next).catch(() => {}); // into the browser's memory, so that it is there at once
}

const neighbour = (by) => leaveFor(Math.min(strip.names.length - 1, Math.max(0, (photo?.id ?? 0) + by)));

async function goOn() {
  if (next === null || next === photo.id) tell("All photographs are done.");
  else await leaveFor(next);
}

// --- saving --------------------------------------------------------------------------------------

function changed(really) {
  refresh();
  if (really) save(photo.state === "done");
  return really;
}

function setUnsaved(value) {
  unsaved = value;
  document.body.dataset.unsaved = value ? "yes" : "no";
}

function save(done) {
  if (!photo || photo.state === "unreadable") return Promise.resolve(false);
  setUnsaved(true);
  const turn = (saving ?? Promise.resolve()).then(() => send(done));
  saving = turn;
  return turn;
}

async function send(done) {
  const sent = photo;
  const body = { boxes: editing.toSend(), done, revision: sent.revision, refused: editing.refused };
  try {
    const kept = await ask(photoPath(sent.id), "PUT", body);
    Object.assign(sent, { revision: kept.revision, state: kept.state });
    if (photo === sent) editing.saved(kept.boxes);
    setUnsaved(false);
    strip.set(sent.id, kept.state);
    tell(done ? "Done and saved." : "Saved.");
    return true;
  } catch (error) {
    tell(error.message, true);
    if (error.status === 409 && photo === sent) {
      setUnsaved(false);
      await open(sent.id);
      tell(error.message, true);
    } else if (photo === sent) setTimeout(() => unsaved && photo === sent && save(done), RETRY_MS);
    return false;
  }
}

const settle = () => (saving ?? Promise.resolve()).catch(() => {});

async function confirm() {
  if (photo.state === "unreadable") return goOn();
  loading = true;
  const kept = await save(true);
  loading = false;
  if (kept) await goOn();
}

// --- what keys and buttons do ---------------------------------------------------------------------

const actions = makeActions({
  editing, canvas, changed, refresh, redraw, tell, confirm, neighbour,
  classes: () => session.classes, copied: () => copied, label: () => label,
  setLabel: (name) => { label = name; },
});

// --- what happens elsewhere ----------------------------------------------------------------------

async function follow() {
  for (;;) {
    try {
      const news = await ask(`/v1/changes?since=${session.sequence}`);
      session = news;
      for (const { id, state, revision } of news.changed) {
        strip.set(id, state);
        if (id === photo?.id && revision > photo.revision && !unsaved && !loading) await reopen();
      }
      await takeSuggestions();
      adoptClasses();
      showFigures(session);
    } catch (error) {
      tell(error.message, true);
      await new Promise((wake) => setTimeout(wake, RETRY_MS));
    }
  }
}

async function reopen() {
  await settle();
  const described = await ask(photoPath(photo.id));
  if (described.id !== photo?.id || described.revision <= photo.revision) return;
  photo = described;
  editing.load(described);
  refresh();
  tell("Changed in another tab.");
}

// Newer suggestions for the photograph on the screen, unless its suggestions were answered already.
async function takeSuggestions() {
  if (!photo || loading || photo.state === "done" || photo.state === "unreadable" || editing.touched) return;
  const { id } = photo;
  const found = await ask(photoPath(id, "/suggestions"));
  if (id !== photo?.id || editing.touched || loading || found.version <= (photo.version ?? 0)) return;
  photo.version = found.version;
  if (editing.isSuggestion()) editing.selected = null;
  editing.suggest(found.suggestions);
  refresh();
}

function adoptClasses() {
  if (label === null || !session.classes.includes(label)) label = session.classes[0] ?? null;
  showLists();
}

// --- the beginning -------------------------------------------------------------------------------

async function begin() {
  session = await ask("/v1/session");
  const { names, states } = await ask("/v1/photos");
  strip.load(names, states);
  adoptClasses();
  showFigures(session);
  watchTraining(tell);
  const asked = Number.parseInt(location.hash.slice(1), 10);
  const first = states.findIndex((state) => state !== "done" && state !== "unreadable");
  await open(asked >= 0 && asked < names.length ? asked : Math.max(0, first));
  if (session.omitted.length) tell(session.omitted[0], true);
  if (!session.classes.length) at("#class-name").focus();
  follow();
}

for (const [place, name] of Object.entries({
  "#before": "before", "#after": "after", "#accept": "accept", "#confirm": "confirm", "#nothing": "nothing",
  "#copy": "copy", "#undo": "undo", "#redo": "redo", "#fit": "fit", "#help-open": "help",
})) at(place).addEventListener("click", () => loading || actions[name]());
at("#order").addEventListener("change", async () => {
  ({ next } = await ask(photoPath(photo.id, `/show?order=${at("#order").value}`), "POST"));
});
at("#add-class").addEventListener("submit", async (event) => {
  event.preventDefault();
  const field = at("#class-name");
  try {
    const added = await ask("/v1/classes", "POST", { name: field.value });
    session.classes = added.classes;
    field.value = "";
    at("#canvas").focus();
    actions.chooseClass(added.classes.indexOf(added.name));
  } catch (error) {
    tell(error.message, true);
  }
});
listen(actions, () => loading);
new ResizeObserver(redraw).observe(at("#stage"));
addEventListener("beforeunload", (event) => unsaved && event.preventDefault());
setInterval(() => session && showLearned(session.learning, nothingYet(session)), 500);
begin().catch((error) => tell(error.message, true));
