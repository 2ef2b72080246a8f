// The lists of classes and boxes beside the photograph.

// suggested: a class that is drawn dashed.
export function showClasses(session, chosen, colourOf, choose, suggested = null) {
  document.querySelector("#classes").replaceChildren(...session.classes.map((name, index) => {
    const key = index < 10 ? `${(index + 1) % 10} · ` : "";
    const count = `${key}${session.objects[name] ?? 0}`;
    const button = row(colourOf(name), name === suggested ? `${name}?` : name, count, name === suggested);
    button.setAttribute("role", "radio");
    button.setAttribute("aria-checked", String(name === chosen));
    button.addEventListener("click", () => choose(index));
    return item(button);
  }));
}

export function showBoxes(editing, done, colourOf, select) {
  const all = [...editing.boxes, ...editing.suggestions];
  const list = document.querySelector("#boxes");
  list.replaceChildren(...all.map((one) => {
    const suggested = editing.isSuggestion(one.key);
    const size = `${Math.round(one.box[2] - one.box[0])}×${Math.round(one.box[3] - one.box[1])}`;
    const button = row(colourOf(one.label), suggested ? `${one.label}?` : one.label, size, suggested);
    button.setAttribute("aria-pressed", String(one.key === editing.selected));
    if (suggested) button.setAttribute("aria-label", `${one.label}, suggested, ${size} pixels`);
    button.addEventListener("click", () => select(one.key));
    return item(button);
  }));
  if (all.length) return;
  const none = item(done ? "no object here" : "none yet: drag on the photograph");
  none.className = "none";
  list.append(none);
}

function row(fill, text, number, dashed = false) {
  const [button, swatch, words, count] = ["button", "span", "span", "span"].map((kind) => document.createElement(kind));
  button.type = "button";
  swatch.className = dashed ? "swatch dashed" : "swatch";
  swatch.style[dashed ? "borderColor" : "background"] = fill;
  words.className = "grow";
  words.textContent = text;
  count.className = "number";
  count.textContent = number;
  button.append(swatch, words, count);
  return button;
}

function item(content) {
  const made = document.createElement("li");
  made.append(content);
  return made;
}
