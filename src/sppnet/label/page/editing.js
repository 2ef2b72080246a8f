// The boxes and suggestions of one photograph, and how they were before: every change can be undone.

let keys = 0;
export const newKey = () => `${Date.now().toString(36)}-${(keys += 1)}`;

const DEPTH = 200;
const REPLACED_IOU = 0.4;
const REPLACED_INSIDE = 0.8; // share of the smaller of two boxes of a class that lies in the other

export class Editing {
  constructor() {
    this.clear();
  }

  clear() {
    this.boxes = [];
    this.suggestions = [];
    this.refused = [];
    this.origins = new Map(); // of keys: which entry of the file a box is
    this.selected = null;
    this.touched = false; // whether suggestions were accepted or refused here
    this.past = [];
    this.future = [];
  }

  load(photo) {
    this.clear();
    this.boxes = photo.boxes.map((one) => this.known(one));
    this.suggest(photo.suggestions);
  }

  known(one) {
    const key = one.key || newKey();
    this.origins.set(key, one.origin);
    return { key, label: one.label, box: one.box, difficult: one.difficult, crowd: one.crowd };
  }

  suggest(suggestions) {
    this.suggestions = suggestions.map((one) => ({ ...one, key: newKey() }));
  }

  find(key = this.selected) {
    return this.boxes.find((one) => one.key === key) ?? this.suggestions.find((one) => one.key === key);
  }

  isSuggestion(key = this.selected) {
    return this.suggestions.some((one) => one.key === key);
  }

  // --- changes; each gives whether anything changed ---

  remember() {
    this.past.push({ boxes: this.boxes, suggestions: this.suggestions, refused: this.refused });
    if (this.past.length > DEPTH) this.past.shift();
    this.future = [];
  }

  // A box drawn over a suggestion takes its place: accepting all would bring the loose one back.
  add(label, box) {
    this.remember();
    const others = this.suggestions.filter((one) => !isReplaced(one, label, box));
    if (others.length < this.suggestions.length) this.touched = true;
    this.suggestions = others;
    const made = { key: newKey(), label, box, difficult: false, crowd: false };
    this.boxes = [...this.boxes, made];
    this.selected = made.key;
    return true;
  }

  addAll(several) {
    if (!several.length) return false;
    this.remember();
    this.boxes = [...this.boxes, ...several.map((one) => ({ ...one, key: newKey() }))];
    return true;
  }

  replace(key, change) {
    this.remember();
    this.boxes = this.boxes.map((one) => (one.key === key ? { ...one, ...change } : one));
    this.suggestions = this.suggestions.map((one) => (one.key === key ? { ...one, ...change } : one));
    return true;
  }

  remove(key = this.selected) {
    if (!this.boxes.some((one) => one.key === key)) return false;
    this.remember();
    this.boxes = this.boxes.filter((one) => one.key !== key);
    this.selected = null;
    return true;
  }

  accept(wanted = this.suggestions.map((one) => one.key)) {
    const taken = this.suggestions.filter((one) => wanted.includes(one.key));
    if (!taken.length) return false;
    this.remember();
    this.touched = true;
    const made = taken.map(({ key, label, box }) => ({ key, label, box, difficult: false, crowd: false }));
    this.boxes = [...this.boxes, ...made];
    this.suggestions = this.suggestions.filter((one) => !wanted.includes(one.key));
    return true;
  }

  refuse(wanted = [this.selected]) {
    const gone = this.suggestions.filter((one) => wanted.includes(one.key));
    if (!gone.length) return false;
    this.remember();
    this.touched = true;
    this.refused = [...this.refused, ...gone.map((one) => one.box)];
    this.suggestions = this.suggestions.filter((one) => !wanted.includes(one.key));
    if (wanted.includes(this.selected)) this.selected = null;
    return true;
  }

  undo() {
    return this.travel(this.past, this.future);
  }

  redo() {
    return this.travel(this.future, this.past);
  }

  travel(from, to) {
    const there = from.pop();
    if (!there) return false;
    to.push({ boxes: this.boxes, suggestions: this.suggestions, refused: this.refused });
    Object.assign(this, there);
    if (!this.find()) this.selected = null;
    return true;
  }

  step(by) {
    const all = [...this.boxes, ...this.suggestions];
    if (!all.length) return;
    const at = all.findIndex((one) => one.key === this.selected);
    this.selected = all[(at < 0 ? (by > 0 ? 0 : all.length - 1) : at + by + all.length) % all.length].key;
  }

  // --- for the server ---

  toSend() {
    return this.boxes.map((one) => ({ ...one, origin: this.origins.get(one.key) ?? null }));
  }

  saved(boxes) {
    this.origins = new Map(boxes.map((one) => [one.key, one.origin]));
  }
}

// Whether a suggestion is of the object that a box was drawn about.
function isReplaced(suggestion, label, drawn) {
  const [[ax0, ay0, ax1, ay1], [bx0, by0, bx1, by1]] = [suggestion.box, drawn];
  const shared = Math.max(0, Math.min(ax1, bx1) - Math.max(ax0, bx0)) * Math.max(0, Math.min(ay1, by1) - Math.max(ay0, by0));
  const areas = [(ax1 - ax0) * (ay1 - ay0), (bx1 - bx0) * (by1 - by0)];
  if (shared >= REPLACED_IOU * (areas[0] + areas[1] - shared)) return true;
  return suggestion.label === label && shared >= REPLACED_INSIDE * Math.min(...areas);
}

// A box moved as a whole, or its lower right corner, within a photograph.
export function nudged([x0, y0, x1, y1], dx, dy, resize, { width, height }) {
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
  if (resize) return [x0, y0, clamp(x1 + dx, x0 + 2, width), clamp(y1 + dy, y0 + 2, height)];
  const [x, y] = [clamp(x0 + dx, 0, width - (x1 - x0)), clamp(y0 + dy, 0, height - (y1 - y0))];
  return [x, y, x + x1 - x0, y + y1 - y0];
}
