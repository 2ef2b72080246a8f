// Boxes on the canvas.

export const HANDLE = matchMedia("(pointer: coarse)").matches ? 11 : 6;
export const CROSS = matchMedia("(pointer: coarse)").matches ? 17 : 10;

export const colour = (index) => `hsl(${(index * 137.5 + 205) % 360} 85% ${index % 2 ? 58 : 48}%)`;

export function corners(box, view) {
  return [box[0] * view.scale + view.x, box[1] * view.scale + view.y, box[2] * view.scale + view.x, box[3] * view.scale + view.y];
}

export function handles([x0, y0, x1, y1]) {
  const [cx, cy] = [(x0 + x1) / 2, (y0 + y1) / 2];
  return [[x0, y0, 0, 1], [cx, y0, null, 1], [x1, y0, 2, 1], [x1, cy, 2, null], [x1, y1, 2, 3], [cx, y1, null, 3], [x0, y1, 0, 3], [x0, cy, 0, null]];
}

export const crossAt = ([, y0, x1], width) => [Math.min(x1 - CROSS, width - CROSS - 2), Math.max(y0 + CROSS, CROSS + 2)];

export function draw(context, size, image, view, editing, colourOf, dragged) {
  const ratio = devicePixelRatio;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, size.width, size.height);
  if (!image) return;
  context.imageSmoothingEnabled = view.scale < 3;
  context.drawImage(image, view.x, view.y, view.width * view.scale, view.height * view.scale);
  for (const one of editing.suggestions) drawSuggestion(context, size, one, view, colourOf(one.label), one.key === editing.selected);
  const shown = ({ dragging }, one) => (dragging?.key === one.key ? { ...one, box: dragging.box } : one);
  for (const one of editing.boxes) drawBox(context, shown(editing, one), view, colourOf(one.label), one.key === editing.selected);
  if (dragged) outline(context, corners(dragged.box, view), colourOf(dragged.label), [], 2);
}

function outline(context, [x0, y0, x1, y1], stroke, dash, width) {
  context.lineWidth = width + 2;
  context.strokeStyle = "rgb(0 0 0 / 45%)";
  context.setLineDash(dash);
  context.strokeRect(x0, y0, x1 - x0, y1 - y0);
  context.lineWidth = width;
  context.strokeStyle = stroke;
  context.strokeRect(x0, y0, x1 - x0, y1 - y0);
  context.setLineDash([]);
}

function drawBox(context, one, view, stroke, selected) {
  const at = corners(one.box, view);
  outline(context, at, stroke, [], selected ? 3 : 2);
  name(context, at, one.label, stroke);
  if (!selected) return;
  for (const [x, y] of handles(at)) {
    context.fillStyle = "white";
    context.strokeStyle = stroke;
    context.lineWidth = 2;
    context.fillRect(x - HANDLE / 2, y - HANDLE / 2, HANDLE, HANDLE);
    context.strokeRect(x - HANDLE / 2, y - HANDLE / 2, HANDLE, HANDLE);
  }
}

function drawSuggestion(context, size, one, view, stroke, selected) {
  const at = corners(one.box, view);
  if (selected) {
    context.fillStyle = "rgb(255 255 255 / 18%)";
    context.fillRect(at[0], at[1], at[2] - at[0], at[3] - at[1]);
  }
  outline(context, at, stroke, [7, 5], selected ? 3 : 2);
  name(context, at, `${one.label}?`, stroke);
  const [x, y] = crossAt(at, size.width);
  const arm = CROSS * 0.4;
  context.beginPath();
  context.arc(x, y, CROSS * 0.8, 0, 7);
  context.fillStyle = "rgb(0 0 0 / 60%)";
  context.fill();
  context.beginPath();
  context.moveTo(x - arm, y - arm);
  context.lineTo(x + arm, y + arm);
  context.moveTo(x + arm, y - arm);
  context.lineTo(x - arm, y + arm);
  context.lineWidth = 2;
  context.strokeStyle = "white";
  context.stroke();
}

function name(context, [x0, y0], text, fill) {
  context.font = "12px system-ui, sans-serif";
  const width = context.measureText(text).width + 8;
  const top = y0 < 18 ? y0 : y0 - 17;
  context.fillStyle = fill;
  context.fillRect(x0 - 1, top, width, 17);
  context.fillStyle = "black";
  context.fillText(text, x0 + 3, top + 12.5);
}
