// A photograph from a camera of this computer. Phones have a camera of their own behind a file input.

const element = (id) => document.getElementById(id);

// Browsers give the camera to pages of this computer, and to encrypted ones alone from elsewhere.
export const hasCamera = () => Boolean(navigator.mediaDevices?.getUserMedia) && !matchMedia("(pointer: coarse)").matches;

// A file, or null if it was cancelled. Throws an Error in words where there is no camera.
export async function photograph() {
  const stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1920 } } }).catch((error) => {
    const refused = error.name === "NotAllowedError";
    throw new Error(refused ? "the browser was not allowed to use it" : "none was found, or another program has it");
  });
  try {
    return await taken(stream);
  } finally {
    for (const track of stream.getTracks()) track.stop();
    element("view").srcObject = null;
  }
}

function taken(stream) {
  const dialog = element("live");
  element("view").srcObject = stream;
  dialog.showModal();
  element("take").focus();
  return new Promise((resolve) => {
    let file = null;
    element("take").onclick = async () => {
      file = await frame(element("view"));
      if (file) dialog.close();
    };
    element("leave").onclick = () => dialog.close();
    dialog.onclose = () => resolve(file); // Escape closes it too
  });
}

// What the video shows, or null before its first frame.
async function frame(view) {
  if (!view.videoWidth) return null;
  const sheet = Object.assign(document.createElement("canvas"), { width: view.videoWidth, height: view.videoHeight });
  sheet.getContext("2d").drawImage(view, 0, 0);
  const blob = await new Promise((resolve) => sheet.toBlob(resolve, "image/jpeg", 0.92));
  return new File([blob], "photograph.jpg", { type: "image/jpeg" });
}
