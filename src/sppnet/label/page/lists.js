// Rows of the lists of classes and boxes.

export function row(fill, text, number, dashed = false) {
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

export function item(content) {
  const made = document.createElement("li");
  made.append(content);
  return made;
}
