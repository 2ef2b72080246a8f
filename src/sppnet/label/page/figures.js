// How it goes: figures, their curve, and what was learned when.

const percent = (share) => (share === null ? "–" : `${Math.round(share * 100)} %`);

export function showFigures(session) {
  const { figures, learning } = session;
  showFolder(session);
  showRows([
    ["taken as suggested", percent(figures.taken)],
    ["right suggestions", percent(figures.precision)],
    ["objects suggested", percent(figures.recall)],
    ["boxes a minute", figures.boxes_a_minute ?? "–"],
  ], "Of the last 20 photographs, each judged before it was corrected.");
  document.querySelector("#stop").hidden = !figures.stop;
  showCurve(figures.curve);
  showLearned(learning, nothingYet(session));
}

export function showFolder(session) {
  document.querySelector("#folder").textContent = session.folder;
  document.title = `${session.folder} – sppnet label`;
  document.querySelector("#progress").textContent = `${session.done} of ${session.photographs} done`;
  document.querySelector("#trunk").textContent = `Features: ${session.trunk}`;
}

export function showRows(rows, title) {
  const list = document.querySelector("#figures");
  list.replaceChildren();
  for (const [word, value] of rows) {
    const [term, told] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = word;
    told.textContent = value;
    list.append(term, told);
  }
  list.title = title;
}

export const nothingYet = ({ trained }) =>
  trained.length ? "The detector suggests what it knows." : "Confirm one photograph, and suggestions begin.";

export function showLearned({ version, waiting, seconds, at }, nothing) {
  const place = document.querySelector("#learned");
  const ago = at === null ? null : Math.max(0, Date.now() / 1000 - at);
  place.classList.toggle("fresh", ago !== null && ago < 3);
  if (waiting) place.textContent = "learning …";
  else if (!version || ago === null) place.textContent = nothing;
  else place.textContent = `learned ${ago < 10 ? ago.toFixed(1) : Math.round(ago)} s ago, in ${seconds.toFixed(1)} s`;
}

export function showCurve(curve) {
  const place = document.querySelector("#curve");
  place.replaceChildren();
  place.style.display = curve.length > 1 ? "" : "none";
  const points = curve.map((share, index) => [4 + (232 * index) / Math.max(1, curve.length - 1), 56 - 52 * (share ?? 0)]);
  for (const height of [4, 30, 56]) place.append(shape("line", { class: "axis", x1: 4, x2: 236, y1: height, y2: height }));
  place.append(shape("polyline", { class: "line", points: points.map((point) => point.join(",")).join(" ") }));
}

function shape(kind, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", kind);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}
