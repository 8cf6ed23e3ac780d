"use strict";
// Everything that comes from the data is put in as text or as an attribute, never as markup.

const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("viewer-data").textContent);
const images = data.images.map(([path, actual, predicted, probability, own, uri], rank) =>
  ({ path, actual, predicted, probability, own, uri, rank }));

// --- colours -------------------------------------------------------------------------------------------------------

const themes = { "": "as the system", light: "light", dark: "dark" };
const remembered = {
  get: () => { try { return localStorage.getItem("thaw-theme") || ""; } catch { return ""; } },
  set: (value) => { try { localStorage.setItem("thaw-theme", value); } catch { /* a page from disk may have no store */ } },
};

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  byId("theme").textContent = `Colours: ${themes[theme]}`;
}

setTheme(remembered.get() in themes ? remembered.get() : "");
byId("theme").addEventListener("click", () => {
  const names = Object.keys(themes);
  const next = names[(names.indexOf(document.documentElement.dataset.theme || "") + 1) % names.length];
  setTheme(next);
  remembered.set(next);
});

// --- the images behind a cell --------------------------------------------------------------------------------------

const viewer = byId("viewer"), grid = byId("viewer-grid"), detail = byId("viewer-detail");
const actualSelect = byId("viewer-actual"), predictedSelect = byId("viewer-predicted");
const orderSelect = byId("viewer-order"), search = byId("viewer-search");
const PAGE = 120;

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== null) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

for (const select of [actualSelect, predictedSelect]) {
  select.append(element("option", "any class", { value: "" }));
  if (select === predictedSelect) select.append(element("option", "another class: all errors", { value: "wrong" }));
  data.classes.forEach((name, index) => select.append(element("option", name, { value: String(index) })));
}

const orders = {
  telling: (a, b) => a.rank - b.rank,
  sure: (a, b) => b.probability - a.probability || a.rank - b.rank,
  unsure: (a, b) => a.probability - b.probability || a.rank - b.rank,
  path: (a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : 0),
};

function fits(actual, predicted) {
  const [wanted, given] = [actualSelect.value, predictedSelect.value];
  return (wanted === "" || Number(wanted) === actual) &&
    (given === "" || (given === "wrong" ? actual !== predicted : Number(given) === predicted));
}

function show(from = 0) {
  const named = search.value.trim().toLowerCase();
  const found = images.filter((image) => fits(image.actual, image.predicted) && image.path.toLowerCase().includes(named));
  found.sort(orders[orderSelect.value]);
  if (from === 0) { grid.replaceChildren(); detail.hidden = true; }
  grid.querySelector(".more")?.remove();
  for (const image of found.slice(from, from + PAGE)) grid.append(thumb(image));
  if (found.length > from + PAGE) {
    const more = element("button", `Show more of ${found.length}`, { type: "button", class: "more quiet" });
    more.addEventListener("click", () => { show(from + PAGE); grid.children[from + PAGE].focus(); });
    grid.append(more);
  }
  let total = 0;
  for (const [cell, count] of Object.entries(data.totals)) if (fits(...cell.split(",").map(Number))) total += count;
  const missing = named ? 0 : total - found.length;
  byId("viewer-count").textContent = `${found.length} image${found.length === 1 ? "" : "s"}` +
    (missing > 0 ? `, and ${missing} more that this file has no room for` : "");
  const first = grid.querySelector(".thumb");
  if (first && from === 0) { first.tabIndex = 0; inspect(first); }
}

function thumb(image) {
  const right = image.actual === image.predicted;
  const label = `${image.path}: ${data.classes[image.actual]}, predicted ${data.classes[image.predicted]} with ${image.probability.toFixed(3)}`;
  const button = element("button", null, {
    type: "button", role: "option", "aria-selected": "false", "aria-label": label, tabindex: "-1",
    class: right ? "thumb" : "thumb wrong",
  });
  const picture = element("img", null, { alt: "", src: image.uri, loading: "lazy", decoding: "async" });
  button.append(picture);
  button.image = image;
  button.addEventListener("click", () => button.focus());
  button.addEventListener("focus", () => inspect(button));
  return button;
}

function inspect(button) {
  const image = button.image;
  for (const other of grid.querySelectorAll('.thumb[aria-selected="true"]')) {
    other.setAttribute("aria-selected", "false");
    other.tabIndex = -1;
  }
  button.setAttribute("aria-selected", "true");
  button.tabIndex = 0;
  const [picture, caption] = detail.children;
  picture.src = image.uri;
  picture.alt = `${data.classes[image.actual]}, predicted ${data.classes[image.predicted]}`;
  const facts = [
    ["predicted", `${data.classes[image.predicted]}, ${image.probability.toFixed(3)}`],
    ["label", `${data.classes[image.actual]}, ${image.own.toFixed(3)}`],
    ["file", image.path],
  ];
  const list = element("dl", null, { class: "facts" });
  for (const [key, value] of facts) {
    const row = element("div", null);
    const cell = element("dd", null);
    cell.append(element("bdi", value));
    row.append(element("dt", key), cell);
    list.append(row);
  }
  caption.replaceChildren(list);
  detail.hidden = false;
}

function openViewer(cell) {
  const [actual, predicted] = cell.split(",");
  actualSelect.value = actual;
  predictedSelect.value = predicted;
  search.value = "";
  orderSelect.value = "telling";
  viewer.showModal();
  show();
  (grid.querySelector(".thumb") || byId("viewer-close")).focus();
}

document.addEventListener("click", (event) => {
  const opener = event.target.closest("[data-cell]");
  if (opener) openViewer(opener.dataset.cell);
});
byId("viewer-close").addEventListener("click", () => viewer.close());
viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
viewer.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
for (const control of [actualSelect, predictedSelect, orderSelect]) control.addEventListener("change", () => show());
search.addEventListener("input", () => show());

grid.addEventListener("keydown", (event) => {
  const thumbs = [...grid.querySelectorAll(".thumb")], here = thumbs.indexOf(document.activeElement);
  if (here < 0) return;
  const row = Math.max(1, thumbs.filter((one) => one.offsetTop === thumbs[0].offsetTop).length);
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -row, ArrowDown: row, Home: -here, End: thumbs.length - 1 - here };
  if (!(event.key in steps)) return;
  event.preventDefault();
  thumbs[Math.min(thumbs.length - 1, Math.max(0, here + steps[event.key]))].focus();
});

// --- the confusion matrix: a table of buttons, or a map where there are many classes -------------------------------

const arrows = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

byId("matrix")?.addEventListener("keydown", (event) => {
  const step = arrows[event.key], cell = event.target.closest("td");
  if (!step || !cell) return;
  event.preventDefault();
  const rows = byId("matrix").tBodies[0].rows;
  let [row, column] = [cell.parentNode.rowIndex - 1, cell.cellIndex];
  for (row += step[0], column += step[1]; rows[row]?.cells[column]; row += step[0], column += step[1]) {
    const button = rows[row].cells[column].querySelector("button:enabled");
    if (button) { button.focus(); return; }
  }
});

const map = byId("map");
if (map) {
  const num = Number(map.dataset.classes), cursor = byId("cursor");
  let [row, column] = [0, 0];
  const move = (toRow, toColumn) => {
    [row, column] = [toRow, toColumn].map((place) => Math.min(num - 1, Math.max(0, place)));
    cursor.setAttribute("x", column);
    cursor.setAttribute("y", row);
    const count = data.totals[`${row},${column}`] || 0;
    byId("readout").textContent = `${data.classes[row]}, taken for ${data.classes[column]}: ${count} image${count === 1 ? "" : "s"}`;
    return count;
  };
  const place = (event) => {
    const box = map.getBoundingClientRect(), unit = (num + 1) / box.width;
    return [(event.clientY - box.top) * unit - 0.5, (event.clientX - box.left) * unit - 0.5].map(Math.floor);
  };
  map.addEventListener("pointermove", (event) => move(...place(event)));
  map.addEventListener("click", (event) => { if (move(...place(event))) openViewer(`${row},${column}`); });
  map.addEventListener("focus", () => move(row, column));
  map.addEventListener("keydown", (event) => {
    const step = arrows[event.key];
    if (step) move(row + step[0], column + step[1]);
    else if (event.key === "Enter" && move(row, column)) openViewer(`${row},${column}`);
    else return;
    event.preventDefault();
  });
}

// --- tables and filters --------------------------------------------------------------------------------------------

const classTable = byId("class-table");
classTable.tHead.addEventListener("click", (event) => {
  const button = event.target.closest(".sort");
  if (!button) return;
  const head = button.parentNode, column = head.cellIndex;
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of classTable.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const key = (row) => column ? Number(row.cells[column].dataset.value) : row.cells[0].textContent;
  const compare = (a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0) * (down ? -1 : 1);
  classTable.tBodies[0].append(...[...classTable.tBodies[0].rows].sort(compare));
});

byId("class-filter")?.addEventListener("input", (event) => {
  const named = event.target.value.trim().toLowerCase();
  let shown = 0;
  for (const row of classTable.tBodies[0].rows) {
    row.hidden = !row.cells[0].textContent.toLowerCase().includes(named);
    shown += row.hidden ? 0 : 1;
  }
  byId("class-count").textContent = named ? `${shown} of ${classTable.tBodies[0].rows.length} classes` : "";
});

byId("split-filter")?.addEventListener("change", (event) => {
  for (const card of byId("doubtful-cards").children) {
    card.hidden = event.target.value !== "" && card.dataset.split !== event.target.value;
  }
});

byId("heat")?.addEventListener("change", (event) => byId("worst-cards").classList.toggle("plain", !event.target.checked));

addEventListener("beforeprint", () => { for (const part of document.querySelectorAll("details")) part.open = true; });
