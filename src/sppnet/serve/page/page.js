// The page: an image goes to the server once; sliders work here, windows are asked of the image's map.

import { hasCamera, photograph } from "/camera.js";
import { colourOf, drawBoxes, drawWindow, suppress } from "/drawing.js";

const LEAST_SCORE = -1; // what sliders can still show
const element = (id) => document.getElementById(id);
const canvas = element("canvas");
const pen = canvas.getContext("2d");

const state = {
  model: null, picture: null, seen: null, file: null, name: "", window: null, scored: null, level: 0, start: null,
};

// --- asking ---------------------------------------------------------------------------------------

async function ask(path, options) {
  const started = performance.now();
  const response = await fetch(path, options);
  const answer = await response.json().catch(() => ({ error: `the server answered ${response.status}` }));
  if (!response.ok) throw new Refused(answer.error ?? `the server answered ${response.status}`, response);
  answer.round_trip_ms = performance.now() - started;
  return answer;
}

class Refused extends Error {
  constructor(message, response) {
    super(message);
    this.status = response.status;
    this.seconds = Number(response.headers.get("Retry-After")) || 0;
  }
}

function tell(text, wrong = false) {
  element("status").textContent = text;
  element("status").classList.toggle("wrong", wrong);
}

async function look(file) {
  if (!file) return;
  tell(`Looking at ${file.name || "the image"} …`);
  const work = isDetector() ? `/v1/detect?min_score=${LEAST_SCORE}&overlap=1` : "/v1/classify?top=10";
  try {
    const [seen, picture] = await Promise.all([
      ask(work, { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } }),
      createImageBitmap(file, { imageOrientation: "from-image" }).catch(() => null),
    ]);
    Object.assign(state, { seen, picture, file, name: file.name || "image", window: null, scored: null });
    setCanvas(seen.width, seen.height);
    element("panel").hidden = element("stage").hidden = element("keys").hidden = false;
    document.querySelector("main").classList.remove("empty");
    show();
    tell(summary());
  } catch (error) {
    const again = error.seconds ? ` Try again in ${error.seconds} s.` : "";
    tell(`${file.name || "The image"}: ${error.message}.${again}`.replace("..", "."), true);
  }
}

// One question at a time, the latest window next: a drag asks as fast as the server answers.
let asking = false;
async function scoreWindow() {
  if (asking || !state.window) return;
  asking = true;
  try {
    while (state.window && isStale()) {
      const asked = state.window;
      const body = JSON.stringify({ id: state.seen.id, boxes: [asked] });
      const answer = await ask("/v1/windows", { method: "POST", body });
      const row = { ...answer.windows[0], box: asked, ms: answer.ms, round_trip_ms: answer.round_trip_ms };
      if (state.window) state.scored = row;
      show();
    }
  } catch (error) {
    if (error.status === 404) return void look(state.file); // kept no longer
    tell(`The window: ${error.message}`, true);
  } finally {
    asking = false;
  }
  if (state.scored && !state.start) tell(`Your window: ${inWords(state.scored.top[0])}`);
}

// --- showing --------------------------------------------------------------------------------------

const isDetector = () => state.model.kind === "detector";
const percent = (share) => `${(100 * share).toFixed(0)} %`;
const format = (score) => (state.model.score === "probability" ? `${(100 * score).toFixed(1)} %` : score.toFixed(2).replace("-", "−"));
const sureness = (one) => (one.probability == null ? format(one.score) : percent(one.probability));
const inWords = (one) => `${one.label} ${sureness(one)}`;

// Whether the window has moved on since it was scored.
const isStale = () => state.scored?.box.join() !== state.window?.join();

function chosen() {
  const least = Number(element("score").value);
  const sure = (isDetector() ? state.seen.detections : state.seen.top).filter((one) => one.score >= least);
  return isDetector() ? suppress(sure, Number(element("overlap").value)) : sure;
}

function summary() {
  const found = chosen();
  if (!isDetector()) return `${inWords(state.seen)}.`;
  const counts = new Map();
  for (const one of found) counts.set(one.label, (counts.get(one.label) ?? 0) + 1);
  const names = [...counts].map(([label, count]) => `${count} ${label}`).join(", ");
  return found.length ? `Found ${names}.` : "Nothing as sure as that; move the score slider to the left.";
}

// Small images are drawn larger, so that lines and letters are sharp.
const SHARP_PX = 1400;
function setCanvas(width, height) {
  const zoom = Math.max(1, SHARP_PX / Math.max(width, height));
  canvas.width = Math.round(width * zoom);
  canvas.height = Math.round(height * zoom);
  canvas.style.width = `min(100%, ${(74 * width) / height}vh)`;
}

function show() {
  element("score-value").value = format(Number(element("score").value));
  element("overlap-value").value = Number(element("overlap").value).toFixed(2);
  if (!state.seen) return;
  const found = chosen();
  draw(pen, found);
  list(element("found"), found);
  element("window").hidden = !state.scored;
  element("window").classList.toggle("stale", isStale());
  if (state.scored) showWindow(state.scored);
  showTimes();
  canvas.setAttribute("aria-label", `${state.name}: ${summary()}`);
}

// Onto a canvas of any size.
function draw(onto, found) {
  const { width, height } = onto.canvas;
  const across = width / state.seen.width;
  const down = height / state.seen.height;
  const scaled = ([x0, y0, x1, y1]) => [x0 * across, y0 * down, x1 * across, y1 * down];
  onto.fillStyle = "#777";
  onto.fillRect(0, 0, width, height);
  if (state.picture) onto.drawImage(state.picture, 0, 0, width, height);
  if (isDetector()) drawBoxes(onto, found.map((one) => ({ ...one, box: scaled(one.box) })), state.model.classes, inWords);
  if (!state.window) return;
  const scored = isStale() ? null : { cells: state.scored.cells, area: scaled(state.scored.area) };
  drawWindow(onto, scaled(state.window), scored, state.level);
}

function list(place, rows) {
  place.replaceChildren(...rows.map(row));
  if (rows.length) return;
  const none = document.createElement("li");
  none.className = "none";
  none.textContent = "nothing";
  place.append(none);
}

function row(one) {
  const item = document.createElement("li");
  const [mark, name, value] = ["mark", "name", "value"].map((kind) => {
    const part = document.createElement("span");
    part.className = kind;
    return part;
  });
  mark.style.background = colourOf(state.model.classes.indexOf(one.label));
  name.textContent = one.label;
  value.textContent = sureness(one);
  item.append(mark, name, value);
  if (state.model.score === "probability") {
    const bar = document.createElement("span");
    bar.className = "bar";
    bar.style.setProperty("--share", `${100 * one.score}%`);
    item.append(bar);
  }
  return item;
}

function showWindow(scored) {
  const [x0, y0, x1, y1] = scored.cells;
  element("window-text").textContent =
    `${x1 - x0}×${y1 - y0} cells of the map, pooled and scored in ${scored.ms["pool and score"].toFixed(1)} ms` +
    ` (${scored.round_trip_ms.toFixed(0)} ms with the way here); nothing was convolved again.`;
  list(element("window-found"), scored.top.slice(0, 5));
}

function showTimes() {
  const ms = state.seen.ms;
  const rows = Object.entries(ms);
  if (!("convolve" in ms)) rows.unshift(["convolve", null]);
  const spent = Object.values(ms).reduce((sum, one) => sum + one, 0);
  rows.push(["way here and waiting", state.seen.round_trip_ms - spent], ["in all", state.seen.round_trip_ms]);
  element("times").replaceChildren(
    ...rows.map(([stage, took], index) => {
      const line = document.createElement("tr");
      if (index === rows.length - 1) line.className = "sum";
      line.insertCell().textContent = stage;
      line.insertCell().textContent = took === null ? "done before" : `${took.toFixed(took < 10 ? 1 : 0)} ms`;
      return line;
    }),
  );
}

// --- a window of one's own ------------------------------------------------------------------------

// Where the pointer is, in pixels of the image.
function place(event) {
  const frame = canvas.getBoundingClientRect();
  const { width, height } = state.seen;
  return [
    Math.min(width, Math.max(0, ((event.clientX - frame.left) * width) / frame.width)),
    Math.min(height, Math.max(0, ((event.clientY - frame.top) * height) / frame.height)),
  ];
}

function setWindow(box) {
  state.window = box;
  if (!box) state.scored = null;
  show();
  scoreWindow();
}

canvas.addEventListener("pointerdown", (event) => {
  if (event.button !== 0 || (event.pointerType === "touch" && !element("draw").checked)) return;
  state.start = place(event);
  canvas.setPointerCapture(event.pointerId);
});
canvas.addEventListener("pointermove", (event) => {
  if (!state.start) return;
  const [x, y] = place(event);
  const [startX, startY] = state.start;
  const box = [Math.min(x, startX), Math.min(y, startY), Math.max(x, startX), Math.max(y, startY)];
  if (box[2] - box[0] >= 4 && box[3] - box[1] >= 4) setWindow(box);
});
for (const end of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(end, () => {
    state.start = null;
    scoreWindow();
  });
}

canvas.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && state.window) return setWindow(null);
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!step) return;
  event.preventDefault();
  const { width, height } = state.seen;
  const unit = Math.max(1, Math.round(Math.min(width, height) / 50));
  const [dx, dy] = [step[0] * unit, step[1] * unit];
  const [x0, y0, x1, y1] = state.window ?? [width / 4, height / 4, (width * 3) / 4, (height * 3) / 4];
  if (event.shiftKey) {
    setWindow([x0, y0, Math.min(width, Math.max(x0 + unit, x1 + dx)), Math.min(height, Math.max(y0 + unit, y1 + dy))]);
  } else {
    const [right, down] = [Math.max(-x0, Math.min(width - x1, dx)), Math.max(-y0, Math.min(height - y1, dy))];
    setWindow([x0 + right, y0 + down, x1 + right, y1 + down]);
  }
});

// --- images in, results out -----------------------------------------------------------------------

for (const id of ["file", "camera"]) {
  element(id).addEventListener("change", (event) => {
    look(event.target.files[0]);
    event.target.value = ""; // so that the same file can be chosen again
  });
}
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop") look(event.dataTransfer.files[0]);
  });
}
element("photograph").hidden = !hasCamera();
element("phone").hidden = hasCamera();
element("photograph").addEventListener("click", async () => {
  try {
    look(await photograph());
  } catch (error) {
    tell(`The camera: ${error.message}. Choose an image instead.`, true);
  }
});
document.addEventListener("paste", (event) => look(event.clipboardData.files[0]));
for (const id of ["score", "overlap"]) {
  element(id).addEventListener("input", show);
  element(id).addEventListener("change", () => state.seen && tell(summary()));
}
element("draw").addEventListener("change", () => canvas.classList.toggle("drawing", element("draw").checked));

addEventListener("resize", show);

function save(blob, end) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${state.name.replace(/\.\w+$/, "")}${end}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

element("save-json").addEventListener("click", () => {
  const { width, height, ms } = state.seen;
  const found = { [isDetector() ? "detections" : "top"]: chosen() };
  const data = { image: state.name, width, height, ...found, window: state.scored, ms };
  save(new Blob([JSON.stringify(data, null, 2)], { type: "application/json" }), ".json");
});
element("save-png").addEventListener("click", () => {
  const sheet = Object.assign(document.createElement("canvas"), { width: state.seen.width, height: state.seen.height });
  draw(sheet.getContext("2d"), chosen());
  sheet.toBlob((blob) => save(blob, "-found.png"));
});

// --- the model ------------------------------------------------------------------------------------

function setSliders(model) {
  const score = element("score");
  const isProbability = model.score === "probability";
  Object.assign(score, isProbability ? { min: 0, max: 1, step: 0.01 } : { min: LEAST_SCORE, max: 2, step: 0.05 });
  if (model.kind === "classifier" && !isProbability) score.min = -2;
  score.value = model.kind === "detector" ? 0 : score.min;
  element("overlap-row").hidden = model.kind !== "detector";
  element("overlap").value = model.overlap ?? 1;
  element("draw-row").hidden = !matchMedia("(any-pointer: coarse)").matches;
}

function setLevels(levels) {
  for (const level of [0, ...levels]) {
    const label = document.createElement("label");
    const choice = Object.assign(document.createElement("input"), { type: "radio", name: "level", value: level });
    choice.checked = level === Math.max(...levels);
    choice.addEventListener("change", () => {
      state.level = level;
      show();
    });
    label.append(choice, ` ${level ? `${level}×${level}` : "none"}`);
    element("levels").append(label);
  }
  state.level = Math.max(...levels);
}

document.querySelector("main").classList.add("empty");
try {
  state.model = await ask("/v1/model");
  const { kind, classes, trunk } = state.model;
  const few = classes.slice(0, 8).join(", ") + (classes.length > 8 ? " …" : "");
  element("model").textContent = `A ${kind} of ${classes.length} classes (${few}) on ${trunk}`;
  setSliders(state.model);
  setLevels(state.model.levels);
  show();
  document.body.dataset.ready = "yes";
} catch (error) {
  tell(`The server does not answer: ${error.message}`, true);
}
