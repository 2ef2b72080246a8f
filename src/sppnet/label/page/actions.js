// What keys and buttons do; each gives true where it did something.

import { nudged } from "./editing.js";

const at = (place) => document.querySelector(place);
const MIDDLE = [0.35, 0.35, 0.65, 0.65];

// page: its editing and canvas, what it does, and what it knows: classes, label of the next box, boxes to copy.
export function makeActions(page) {
  const { editing, canvas, changed, refresh, redraw, tell } = page;
  const actions = {
    addBox(box) {
      if (page.label() === null) {
        tell("Name the class first: the box is drawn again then.", true);
        at("#class-name").focus();
        return redraw();
      }
      return changed(editing.add(page.label(), box));
    },
    undo: () => changed(editing.undo()),
    redo: () => changed(editing.redo()),
    acceptSelected: () => changed(editing.accept([editing.selected])),
    refuseSelected: () => changed(editing.refuse(editing.selected ? [editing.selected] : editing.suggestions.slice(-1).map((one) => one.key))),
    remove: () => changed(editing.isSuggestion() ? editing.refuse() : editing.remove()),
    zoomIn: () => { canvas.zoom(1.3); return true; },
    zoomOut: () => { canvas.zoom(1 / 1.3); return true; },
    fit: () => { canvas.fit(); redraw(); return true; },
    help: () => { at("#help").showModal(); return true; },
    before: () => { page.neighbour(-1); return true; },
    after: () => { page.neighbour(1); return true; },
    deselect: () => { editing.selected = null; refresh(); return true; },
    selectBefore: () => { editing.step(-1); refresh(); return true; },
    selectAfter: () => { editing.step(1); refresh(); return true; },
    accept: () => changed(editing.accept()),
    confirm: () => { page.confirm(); return true; },
    enter() { return actions.accept() || actions.confirm(); },
    acceptAndConfirm() { editing.accept(); return actions.confirm(); },
    newBox() {
      const { width, height } = canvas.size;
      const [x0, y0] = canvas.inImage([width * MIDDLE[0], height * MIDDLE[1]]);
      const [x1, y1] = canvas.inImage([width * MIDDLE[2], height * MIDDLE[3]]);
      return actions.addBox([x0, y0, x1, y1].map(Math.round));
    },
    nothing() {
      if (editing.boxes.length) tell("There are boxes here; delete them first.", true);
      else {
        editing.refuse(editing.suggestions.map((one) => one.key));
        page.confirm();
      }
      return true;
    },
    copy() { return changed(editing.addAll(page.copied())); },
    chooseClass(index) {
      const name = page.classes()[index];
      if (name === undefined) return false;
      page.setLabel(name);
      const chosen = editing.find();
      if (chosen && chosen.label !== name) return changed(editing.replace(chosen.key, { label: name }));
      refresh();
      return true;
    },
    arrow(dx, dy, steps, resize) {
      const chosen = editing.find();
      if (!chosen) return dy ? false : (dx < 0 ? actions.before() : actions.after());
      const step = Math.max(1, 1 / canvas.view.scale) * steps;
      const box = nudged(chosen.box, dx * step, dy * step, resize, canvas.view);
      return changed(editing.replace(chosen.key, { box }));
    },
  };
  return actions;
}
