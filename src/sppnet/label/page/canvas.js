// What mouse, pen and fingers do on the photograph: draw, move, resize, select, accept, refuse, zoom and pan.

import { CROSS, HANDLE, corners, crossAt, handles } from "./drawing.js";

const CLICK_PX = 5;
const MIN_DRAWN_PX = 4;

export class Canvas {
  // actions: redraw, changed, select, accept, refuse, add, label
  constructor(canvas, editing, actions) {
    Object.assign(this, { canvas, editing, actions });
    this.view = { x: 0, y: 0, scale: 1, width: 1, height: 1 };
    this.pointers = new Map();
    this.drag = null;
    this.dragged = null; // the box that is being drawn
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", (event) => this.up(event));
    canvas.addEventListener("pointercancel", (event) => this.cancel(event));
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  get size() {
    return { width: this.canvas.clientWidth, height: this.canvas.clientHeight };
  }

  fit(width = this.view.width, height = this.view.height) {
    const size = this.size;
    const scale = Math.min((size.width - 8) / width, (size.height - 8) / height);
    this.view = { width, height, scale, x: (size.width - width * scale) / 2, y: (size.height - height * scale) / 2 };
    this.fitted = true;
  }

  zoom(factor, x = this.size.width / 2, y = this.size.height / 2) {
    const least = Math.min(this.size.width / this.view.width, this.size.height / this.view.height) / 2;
    const scale = Math.min(40, Math.max(least, this.view.scale * factor));
    const real = scale / this.view.scale;
    Object.assign(this.view, { scale, x: x - (x - this.view.x) * real, y: y - (y - this.view.y) * real });
    this.fitted = false;
    this.actions.redraw();
  }

  pan(dx, dy) {
    this.view.x += dx;
    this.view.y += dy;
    this.fitted = false;
    this.actions.redraw();
  }

  place(event) {
    const frame = this.canvas.getBoundingClientRect();
    return [event.clientX - frame.x, event.clientY - frame.y];
  }

  inImage([x, y]) {
    const { view } = this;
    return [
      Math.min(view.width, Math.max(0, (x - view.x) / view.scale)),
      Math.min(view.height, Math.max(0, (y - view.y) / view.scale)),
    ];
  }

  // --- what lies at a point ---

  crossAt([x, y]) {
    return this.editing.suggestions.find((one) => {
      const [cx, cy] = crossAt(corners(one.box, this.view), this.size.width);
      return Math.hypot(x - cx, y - cy) <= CROSS;
    });
  }

  handleAt([x, y]) {
    const { editing } = this;
    const chosen = editing.isSuggestion() ? null : editing.find();
    if (!chosen) return null;
    const found = handles(corners(chosen.box, this.view)).find(
      ([hx, hy]) => Math.max(Math.abs(x - hx), Math.abs(y - hy)) <= HANDLE + 3,
    );
    return found ? { key: chosen.key, box: chosen.box, sides: [found[2], found[3]] } : null;
  }

  smallest(several, [x, y]) {
    const inside = several.filter((one) => {
      const [x0, y0, x1, y1] = corners(one.box, this.view);
      return x >= x0 - 3 && x <= x1 + 3 && y >= y0 - 3 && y <= y1 + 3;
    });
    const area = ({ box }) => (box[2] - box[0]) * (box[3] - box[1]);
    return inside.sort((a, b) => area(a) - area(b))[0];
  }

  // --- pointers ---

  down(event) {
    if (this.actions.busy()) return;
    this.canvas.focus();
    this.canvas.setPointerCapture(event.pointerId);
    const at = this.place(event);
    this.pointers.set(event.pointerId, at);
    if (this.pointers.size === 2) {
      this.drag = { kind: "pinch" };
      this.dragged = null;
      return;
    }
    if (event.button === 1 || event.button === 2) {
      this.drag = { kind: "pan" };
      return;
    }
    const handle = this.handleAt(at);
    const chosen = this.editing.isSuggestion() ? null : this.editing.find();
    const within = chosen && this.smallest([chosen], at);
    if (handle) this.drag = { kind: "resize", start: at, ...handle };
    else if (within && !event.shiftKey) this.drag = { kind: "move", start: at, key: chosen.key, box: chosen.box };
    else this.drag = { kind: "draw", start: at };
    this.drag.moved = false;
  }

  move(event) {
    const at = this.place(event);
    const before = this.pointers.get(event.pointerId);
    if (!before || !this.drag) return this.hover(at);
    if (this.drag.kind === "pinch") return this.pinch(event.pointerId, at);
    this.pointers.set(event.pointerId, at);
    if (this.drag.kind === "pan") return this.pan(at[0] - before[0], at[1] - before[1]);
    if (Math.hypot(at[0] - this.drag.start[0], at[1] - this.drag.start[1]) >= CLICK_PX) this.drag.moved = true;
    if (!this.drag.moved) return;
    if (this.drag.kind === "draw") this.dragged = { box: this.spanned(this.drag.start, at), label: this.actions.label() };
    else this.editing.dragging = { key: this.drag.key, box: this.changed(at) };
    this.actions.redraw();
  }

  pinch(id, at) {
    const others = [...this.pointers].filter(([other]) => other !== id);
    const before = this.pointers.get(id);
    this.pointers.set(id, at);
    if (!others.length) return;
    const [, other] = others[0];
    const length = (point) => Math.max(1, Math.hypot(point[0] - other[0], point[1] - other[1]));
    this.pan((at[0] - before[0]) / 2, (at[1] - before[1]) / 2);
    this.zoom(length(at) / length(before), (at[0] + other[0]) / 2, (at[1] + other[1]) / 2);
  }

  hover(at) {
    const over = this.crossAt(at) || (!this.handleAt(at) && this.smallest(this.editing.suggestions, at));
    this.canvas.style.cursor = over ? "pointer" : this.handleAt(at) ? "nwse-resize" : "crosshair";
  }

  up(event) {
    const at = this.place(event);
    this.pointers.delete(event.pointerId);
    const { drag } = this;
    if (!drag || (drag.kind === "pinch" && this.pointers.size)) return;
    this.drag = null;
    this.dragged = null;
    const moving = this.editing.dragging;
    this.editing.dragging = null;
    if (drag.kind === "pan" || drag.kind === "pinch") return;
    if (!drag.moved) return this.click(at);
    if (drag.kind === "draw") this.finish(this.spanned(drag.start, at));
    else if (moving) this.actions.replace(moving.key, { box: this.changed(at, drag) });
  }

  cancel(event) {
    this.pointers.delete(event.pointerId);
    this.drag = this.dragged = this.editing.dragging = null;
    this.actions.redraw();
  }

  finish(box) {
    const { scale } = this.view;
    if ((box[2] - box[0]) * scale >= MIN_DRAWN_PX && (box[3] - box[1]) * scale >= MIN_DRAWN_PX) this.actions.add(box);
    else this.actions.redraw();
  }

  click(at) {
    const crossed = this.crossAt(at);
    if (crossed) return this.actions.refuse([crossed.key]);
    const suggested = this.smallest(this.editing.suggestions, at);
    const drawn = this.smallest(this.editing.boxes, at);
    if (suggested && !(drawn && drawn.key === this.smallest([suggested, drawn], at).key)) return this.actions.accept([suggested.key]);
    this.actions.select(drawn ? drawn.key : null);
  }

  spanned(start, end) {
    const [[ax, ay], [bx, by]] = [this.inImage(start), this.inImage(end)];
    return [Math.min(ax, bx), Math.min(ay, by), Math.max(ax, bx), Math.max(ay, by)].map((side) => Math.round(side * 10) / 10);
  }

  // The box of a drag with the pointer at a point: moved as a whole, or by one or two of its sides.
  changed(at, drag = this.drag) {
    const [dx, dy] = [(at[0] - drag.start[0]) / this.view.scale, (at[1] - drag.start[1]) / this.view.scale];
    const { width, height } = this.view;
    const box = [...drag.box];
    if (drag.kind === "move") {
      const x = Math.min(width - box[2], Math.max(-box[0], dx));
      const y = Math.min(height - box[3], Math.max(-box[1], dy));
      return [box[0] + x, box[1] + y, box[2] + x, box[3] + y];
    }
    const [across, down] = drag.sides;
    if (across !== null) box[across] = Math.min(width, Math.max(0, box[across] + dx));
    if (down !== null) box[down] = Math.min(height, Math.max(0, box[down] + dy));
    const [x0, y0, x1, y1] = box;
    return [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1, Math.min(x0, x1) + 1), Math.max(y0, y1, Math.min(y0, y1) + 1)];
  }

  wheel(event) {
    event.preventDefault();
    const [x, y] = this.place(event);
    if (event.shiftKey) this.pan(-event.deltaY, 0);
    else this.zoom(Math.exp(-event.deltaY * 0.0015), x, y);
  }
}
