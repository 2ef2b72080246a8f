// Boxes, windows and their bins on a canvas; nothing here knows the page.

// Okabe and Ito's colours, as in the package's own drawings; then darker, then lighter.
const COLOURS = [[230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [0, 114, 178], [213, 94, 0], [204, 121, 167]];
const SHADES = [1, 0.55, 1.6];

export function colourOf(label) {
  const shade = SHADES[Math.floor(label / COLOURS.length) % SHADES.length];
  const parts = COLOURS[label % COLOURS.length];
  const mixed = shade > 1 ? parts.map((p) => 255 - (255 - p) / (shade * shade)) : parts.map((p) => p * shade);
  return `rgb(${mixed.map((p) => Math.floor(p + 0.5)).join(", ")})`;
}

function overlap(a, b) {
  const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]);
  const height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  if (width <= 0 || height <= 0) return 0;
  const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);
  return (width * height) / (area(a) + area(b) - width * height);
}

// Greedy suppression, a class at a time; `found` comes the surest first.
export function suppress(found, most) {
  const kept = [];
  for (const one of found) {
    if (!kept.some((other) => other.label === one.label && overlap(other.box, one.box) > most)) kept.push(one);
  }
  return kept;
}

// Bin i of n along a side of `size` cells: the package's own formula.
export function binEdges(size, n) {
  return Array.from({ length: n }, (_, i) => [Math.floor((i * size) / n), Math.floor(((i + 1) * size + n - 1) / n)]);
}

const LEAST_LETTER_PX = 11; // of the screen

// Pixels of a canvas to one of the screen; 1 for one that is not shown.
const onScreen = (canvas) => canvas.width / (canvas.clientWidth || canvas.width);

// inWords: what stands on the box of a detection.
export function drawBoxes(pen, found, labels, inWords) {
  const unit = Math.sqrt(pen.canvas.width * pen.canvas.height);
  const line = Math.max(1.5 * onScreen(pen.canvas), unit / 220);
  const font = Math.max(LEAST_LETTER_PX * onScreen(pen.canvas), unit / 36);
  const surestLast = [...found].reverse();
  for (const one of surestLast) {
    strokeBox(pen, one.box, colourOf(labels.indexOf(one.label)), line);
  }
  pen.font = `600 ${font}px system-ui, sans-serif`;
  pen.textBaseline = "top";
  for (const one of surestLast) {
    drawTag(pen, one.box, inWords(one), colourOf(labels.indexOf(one.label)), font);
  }
}

function strokeBox(pen, [x0, y0, x1, y1], colour, line) {
  pen.lineWidth = line * 1.8;
  pen.strokeStyle = "rgba(0, 0, 0, 0.45)";
  pen.strokeRect(x0, y0, x1 - x0, y1 - y0);
  pen.lineWidth = line;
  pen.strokeStyle = colour;
  pen.strokeRect(x0, y0, x1 - x0, y1 - y0);
}

function drawTag(pen, box, text, colour, font) {
  const width = pen.measureText(text).width + font * 0.6;
  const height = font * 1.35;
  const x = Math.max(0, Math.min(box[0], pen.canvas.width - width));
  const y = box[1] >= height ? box[1] - height : box[1];
  pen.fillStyle = colour;
  pen.fillRect(x, y, width, height);
  pen.fillStyle = dark(colour) ? "white" : "black";
  pen.fillText(text, x + font * 0.3, y + font * 0.18);
}

function dark(colour) {
  const [red, green, blue] = colour.match(/\d+/g).map(Number);
  return 0.299 * red + 0.587 * green + 0.114 * blue < 120;
}

// The window as drawn, the cells it is pooled from, and their bins at one level.
export function drawWindow(pen, box, scored, level) {
  const line = Math.max(2, Math.sqrt(pen.canvas.width * pen.canvas.height) / 260);
  if (scored && level) drawBins(pen, scored, level, line);
  pen.setLineDash([line * 4, line * 3]);
  strokeBox(pen, box, "white", line);
  pen.setLineDash([]);
}

function drawBins(pen, { area, cells }, level, line) {
  const across = cells[2] - cells[0];
  const down = cells[3] - cells[1];
  const x = (cell) => area[0] + ((area[2] - area[0]) * cell) / across;
  const y = (cell) => area[1] + ((area[3] - area[1]) * cell) / down;
  pen.lineWidth = line * 0.8;
  for (const [i, [top, bottom]] of binEdges(down, level).entries()) {
    for (const [j, [left, right]] of binEdges(across, level).entries()) {
      pen.fillStyle = (i + j) % 2 ? "rgba(255, 255, 255, 0.10)" : "rgba(0, 0, 0, 0.16)";
      pen.fillRect(x(left), y(top), x(right) - x(left), y(bottom) - y(top));
      pen.strokeStyle = "rgba(255, 255, 255, 0.75)";
      pen.strokeRect(x(left), y(top), x(right) - x(left), y(bottom) - y(top));
    }
  }
}
