// "Train the detector": begun, watched and stopped from the page.

import { ask } from "./api.js";

const EVERY_MS = 1500;

export function watchTraining(tell) {
  const [button, stop, lines, trained] = ["#train", "#train-stop", "#training", "#trained"].map((place) => document.querySelector(place));
  let timer = null;

  function show(job) {
    button.disabled = job.running;
    button.textContent = job.running ? "Training …" : "Train the detector";
    stop.hidden = !job.running;
    lines.hidden = !job.lines.length || (job.ended && !job.running);
    lines.textContent = job.lines.join("\n");
    lines.scrollTop = lines.scrollHeight;
    trained.hidden = !job.model;
    if (job.model) describeModel(trained, job);
    if (job.failed) tell("The training ended before its end; the last lines say why.", true);
    clearTimeout(timer);
    if (job.running) timer = setTimeout(refresh, EVERY_MS);
  }

  async function run(method) {
    try {
      show(await ask("/v1/training", method));
    } catch (error) {
      tell(error.message, true);
    }
  }

  const refresh = () => run("GET");
  button.addEventListener("click", () => run("POST"));
  stop.addEventListener("click", () => run("DELETE"));
  refresh();
}

function describeModel(place, job) {
  place.replaceChildren("The model: ", code(job.model), "To use it: ", code(`sppnet serve --model "${job.model}"`), code(`Detector.load("${job.model}")("photo.jpg")`));
  if (!job.report) return;
  const link = document.createElement("a");
  link.href = "/report.html";
  link.target = "_blank";
  link.textContent = "Report of the training";
  place.append(link);
}

function code(text) {
  const made = document.createElement("code");
  made.textContent = text;
  return made;
}
