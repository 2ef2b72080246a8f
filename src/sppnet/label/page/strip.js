// The photographs as a strip, of which only what is in view exists: thousands scroll smoothly.

const STEP = 98;
const BESIDE = 4;
const WORDS = { open: "", started: "begun", suggested: "?", done: "✓", unreadable: "!" };
const SPOKEN = { open: "open", started: "begun", suggested: "with suggestions", done: "done", unreadable: "cannot be read" };

export class Strip {
  constructor(strip, tiles, choose) {
    Object.assign(this, { strip, tiles, choose, names: [], states: [], current: null, made: new Map() });
    strip.addEventListener("scroll", () => this.draw(), { passive: true });
    addEventListener("resize", () => this.current !== null && this.show(this.current));
  }

  load(names, states) {
    Object.assign(this, { names, states });
    this.tiles.style.width = `${names.length * STEP + 8}px`;
    this.draw();
  }

  set(photo, state) {
    this.states[photo] = state;
    this.describe(photo);
  }

  show(photo) {
    this.current = photo;
    const left = photo * STEP;
    const { scrollLeft, clientWidth } = this.strip;
    if (left < scrollLeft + STEP || left > scrollLeft + clientWidth - 2 * STEP) this.strip.scrollLeft = left - clientWidth / 2 + STEP / 2;
    this.draw();
  }

  draw() {
    const first = Math.max(0, Math.floor(this.strip.scrollLeft / STEP) - BESIDE);
    const last = Math.min(this.names.length, Math.ceil((this.strip.scrollLeft + this.strip.clientWidth) / STEP) + BESIDE);
    for (const [photo, tile] of this.made) {
      if (photo < first || photo >= last) {
        tile.remove();
        this.made.delete(photo);
      }
    }
    for (let photo = first; photo < last; photo += 1) {
      if (!this.made.has(photo)) this.make(photo);
      this.describe(photo);
    }
  }

  make(photo) {
    const tile = document.createElement("button");
    tile.type = "button";
    tile.tabIndex = -1;
    tile.style.left = `${photo * STEP + 4}px`;
    const image = new Image();
    image.alt = "";
    image.loading = "lazy";
    image.src = `/v1/photos/${photo}/thumb`;
    const state = document.createElement("span");
    state.className = "state";
    tile.append(image, state);
    tile.addEventListener("click", () => this.choose(photo));
    this.tiles.append(tile);
    this.made.set(photo, tile);
  }

  describe(photo) {
    const tile = this.made.get(photo);
    if (!tile) return;
    const state = this.states[photo];
    tile.className = `tile ${state}`;
    tile.title = this.names[photo];
    tile.setAttribute("aria-label", `${this.names[photo]}, ${SPOKEN[state]}`);
    tile.setAttribute("aria-current", String(photo === this.current));
    tile.tabIndex = photo === this.current ? 0 : -1;
    tile.lastChild.textContent = WORDS[state];
    tile.lastChild.hidden = !WORDS[state];
  }
}
