// Everything by keyboard.

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export function listen(actions, isBusy) {
  addEventListener("keydown", (event) => {
    if (event.target.closest("input, select, textarea, dialog")) return;
    const pressed = event.target.closest("button, a") && ["Enter", " "].includes(event.key);
    if (pressed || event.metaKey) return;
    if (isBusy() || handle(event, actions)) event.preventDefault();
  });
}

function handle(event, actions) {
  const { key } = event;
  if (event.ctrlKey) {
    const asked = key.toLowerCase();
    if (asked === "z") return event.shiftKey ? actions.redo() : actions.undo();
    return asked === "y" ? actions.redo() : false;
  }
  if (ARROWS[key]) return actions.arrow(...ARROWS[key], event.shiftKey ? 10 : 1, event.altKey);
  if (event.altKey) return false;
  if (/^[0-9]$/.test(key)) return actions.chooseClass(key === "0" ? 9 : Number(key) - 1);
  const plain = {
    Enter: actions.enter, " ": actions.acceptAndConfirm, ",": actions.selectBefore, ".": actions.selectAfter,
    a: actions.acceptSelected, x: actions.refuseSelected, b: actions.newBox, n: actions.nothing, c: actions.copy,
    Delete: actions.remove, Backspace: actions.remove, Escape: actions.deselect, "+": actions.zoomIn, "=": actions.zoomIn,
    "-": actions.zoomOut, f: actions.fit, "?": actions.help, PageUp: actions.before, PageDown: actions.after,
  }[key.length === 1 ? key.toLowerCase() : key];
  return plain ? plain() : false;
}
