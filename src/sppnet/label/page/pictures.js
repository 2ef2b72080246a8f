// Photographs in the browser's memory, the next one too.

import { photoPath } from "./api.js";

const pictures = new Map();

export function read(number) {
  if (!pictures.has(number)) {
    if (pictures.size > 6) pictures.delete(pictures.keys().next().value);
    const picture = new Image();
    picture.src = photoPath(number, "/image");
    const wanted = picture.decode().then(() => picture, () => {
      pictures.delete(number);
      throw new Error(`the photograph cannot be shown`);
    });
    pictures.set(number, wanted);
  }
  return pictures.get(number);
}
