"use strict";

const at = (id) => document.getElementById(id);
let shown = null; // the answer on the page: {original, overlay}
let asked = 0; // so that a slow answer to an earlier image is dropped
let maxBytes = Infinity;

function say(text, wrong = false) {
  at("status").textContent = text;
  at("status").classList.toggle("wrong", wrong);
}

async function problem(response) {
  try {
    return (await response.json()).detail || response.statusText;
  } catch {
    return `${response.status} ${response.statusText}`;
  }
}

async function classify(file) {
  const mine = ++asked;
  if (file.size > maxBytes) {
    say(`${file.name} has ${(file.size / 1e6).toFixed(1)} MB; at most ${(maxBytes / 1e6).toFixed(1)} MB are accepted.`, true);
    return;
  }
  say(`Looking at ${file.name} …`);
  try {
    const response = await fetch("predict?explain=true", { method: "POST", body: file });
    if (mine !== asked) return;
    if (!response.ok) {
      say(await problem(response), true);
      return;
    }
    show(file, await response.json());
  } catch {
    if (mine === asked) say("The server does not answer. Is `thaw serve` still running?", true);
  }
}

function show(file, answer) {
  if (shown) URL.revokeObjectURL(shown.original);
  shown = { original: URL.createObjectURL(file), overlay: answer.explanation?.image ?? null, name: file.name };
  const [best] = answer.predictions;
  at("winner").textContent = `${best.class}, ${percent(best.probability)}`;
  at("classes").replaceChildren(...answer.predictions.map(row));
  at("overlay").disabled = shown.overlay === null;
  at("method").textContent = answer.explanation ? answer.explanation.method : "";
  at("answer").hidden = false;
  draw();
  say("");
}

function row({ class: name, probability }) {
  const line = document.createElement("tr");
  const bar = document.createElement("meter");
  bar.value = probability;
  bar.setAttribute("aria-hidden", "true");
  for (const content of [name, bar, percent(probability)]) line.insertCell().append(content);
  return line;
}

function draw() {
  const overlay = at("overlay").checked && shown.overlay;
  at("picture").src = overlay || shown.original;
  at("picture").alt = overlay ? `${shown.name}, with the parts that the answer rests on in colour` : shown.name;
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;

at("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (file) classify(file);
  event.target.value = ""; // the same file may be chosen again
});
at("overlay").addEventListener("change", draw);
at("picture").addEventListener("error", () => {
  if (shown.overlay && at("picture").src !== shown.overlay) at("picture").src = shown.overlay; // a TIFF, which browsers cannot draw
});
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault(); // or the browser would leave the page for the image
    at("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind !== "drop") return;
    const [file] = event.dataTransfer.files;
    if (file) classify(file);
    else say("That was no file. Drop an image from a folder.", true);
  });
}
document.addEventListener("paste", (event) => {
  const [file] = event.clipboardData.files;
  if (file) classify(file);
});

fetch("model").then((response) => response.json()).then((model) => {
  maxBytes = model.max_bytes;
  at("about").textContent = `${model.architecture}, ${model.classes.length} classes`;
  at("limit").textContent = `At most ${(maxBytes / 1e6).toFixed(0)} MB. The image is not kept.`;
});
