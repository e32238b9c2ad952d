// The viewer of crlm_jax/viewer.py: what is in view, and the controls. viewer_slices.js and
// viewer_paint.js stand before it in the same block. Every text from the data is set as text, never as
// HTML.
// It runs as soon as the first case has been read; the voxels of the others are still coming then.

const KEPT = 64; // decoded slices of the case in view
const NEAR = 2; // slices decoded ahead on both sides

const root = document.querySelector(".viewer");
const $ = (name) => root.querySelector(".v-" + name);
const all = (name) => [...root.querySelectorAll(".v-" + name)];
const cases = JSON.parse($("index").textContent);
const canvas = root.querySelector("canvas");
const context = canvas.getContext("2d");
const buffer = document.createElement("canvas"); // the slice at its own resolution
const calm = matchMedia("(prefers-reduced-motion: reduce)");

// What is in view. `shown` are the cases in the order of the list.
const state = { shown: [], index: -1 };
let item, coded, cache; // the case, its voxels in base64, its decoded slices
let flash = null; // {mark, start}

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function fail(error) {
  const message = root.querySelector(".v-message[role=alert]");
  message.hidden = false;
  message.textContent = "The viewer cannot show this case. It needs Chrome or Edge 80, " +
    `Firefox 113, Safari 16.4 or newer. (${error})`;
}

// Slice z -> {grey, layers}, where a layer is loops, values or null; a promise, kept for a while.
function decode(z) {
  if (!cache.has(z)) {
    const { shape, layers } = item;
    const jobs = layers.map((layer, i) => {
      const text = coded.layers[i][z];
      return text ? (isMask(layer) ? outlines : picture)(text, shape) : null;
    });
    cache.set(z, Promise.all([picture(coded.grey[z], shape), ...jobs])
      .then(([grey, ...found]) => ({ grey, layers: found })));
    if (cache.size > KEPT) cache.delete(cache.keys().next().value);
  }
  return cache.get(z);
}

// Draws at the next frame; many changes at once cost one picture.
let waiting = false;
function refresh() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    draw().catch(fail);
  });
}

async function draw() {
  const [opened, z] = [item, state.z];
  const slice = await decode(z);
  if (item !== opened || state.z !== z) return; // another one was asked for meanwhile
  state.slice = slice;
  paint(slice);
  canvas.dataset.painted = Number(canvas.dataset.painted || 0) + 1;
  for (let step = 1; step <= NEAR; step++) {
    for (const next of [z + step, z - step]) if (coded.grey[next]) decode(next).catch(fail);
  }
}

// Changing what is in view --------------------------------------------------------------------

function open(index) {
  if (index === state.index) return;
  const voxels = all("pixels")[index];
  if (!voxels || (!voxels.nextSibling && document.readyState === "loading")) {
    document.addEventListener("DOMContentLoaded", () => open(index), { once: true });
    return;
  }
  item = cases[index];
  coded = JSON.parse(voxels.textContent);
  cache = new Map();
  flash = null;
  Object.assign(state, {
    index, mark: null, slice: null,
    on: item.layers.map((layer) => layer.shown),
    opacity: item.layers.map((layer) => (isMask(layer) ? 1 : 0.6)),
  });
  const [count, height, width] = item.shape;
  const [, tall, wide] = item.spacing;
  canvas.style.setProperty("--ratio", `${width * wide} / ${height * tall}`);
  $("slice").max = count;
  $("slice").disabled = count === 1;
  $("title").textContent = item.title;
  $("facts").replaceChildren(...item.facts.map(([name, value]) =>
    element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: value }))));
  listLayers();
  listMarks();
  markCase();
  whole();
  resetWindow();
  go(item.first_slice);
}

function step(by) {
  const place = state.shown.indexOf(state.index) + by;
  if (place in state.shown) open(state.shown[place]);
}

function go(z) {
  state.z = clamp(z, 0, item.shape[0] - 1);
  const where = `Slice ${state.z + 1} of ${item.shape[0]}`;
  $("slice").value = state.z + 1;
  $("slice").setAttribute("aria-valuetext", `${where}, ${millimetres()}`);
  $("where").textContent = `${where}, ${millimetres()} from the first`;
  canvas.setAttribute("aria-label", `${item.title}, axial. ${where}, ${millimetres()}.`);
  $("value").textContent = "";
  refresh();
}

function setWindow(width, level) {
  const [low, high] = item.window;
  state.width = clamp(width, (high - low) / 100, high - low);
  state.level = clamp(level, low, high);
  const digits = high - low >= 50 ? 0 : 3;
  for (const name of ["width", "level"]) {
    for (const input of all(name)) input.value = state[name].toFixed(digits);
  }
  refresh();
}

function resetWindow() {
  const [low, high] = item.window;
  for (const [name, least, most] of [["width", (high - low) / 100, high - low], ["level", low, high]]) {
    for (const input of all(name)) Object.assign(input, { min: least, max: most, step: "any" });
  }
  $("unit").textContent = item.unit || "in the image’s values";
  setWindow(high - low, (low + high) / 2);
}

// Zooms about a point in mm; by default the middle of what is in view.
function zoom(factor, x = state.x, y = state.y) {
  const before = state.zoom;
  state.zoom = clamp(before * factor, 1, 20);
  const kept = before / state.zoom; // the point stays where it is on the screen
  centre(x + (state.x - x) * kept, y + (state.y - y) * kept);
}

function centre(x, y) {
  const [, height, width] = item.shape;
  const [, tall, wide] = item.spacing;
  state.x = state.zoom > 1 ? clamp(x, 0, width * wide) : (width * wide) / 2;
  state.y = state.zoom > 1 ? clamp(y, 0, height * tall) : (height * tall) / 2;
  $("zoom").textContent = `${state.zoom.toFixed(1)}×`;
  canvas.classList.toggle("v-magnified", state.zoom > 1);
  refresh();
}

function whole() {
  state.zoom = 1;
  centre(0, 0);
}

// Fills half of the picture with the chosen lesion of the list, else with all outlines of the slice.
async function fitLesion() {
  if (!state.mark && item.marks.length && !(await boxes()).length) choose(item.marks[0]);
  const { mark } = state;
  let found = await boxes();
  if (mark && mark.slice === state.z) {
    const far = ([x0, y0, x1, y1]) =>
      Math.hypot((x0 + x1) / 2 - mark.column - 0.5, (y0 + y1) / 2 - mark.row - 0.5);
    const own = found.filter((box) => item.layers[box[4]].name === mark.layer);
    if (own.length) found = [own.sort((a, b) => far(a) - far(b))[0]];
  }
  if (!found.length) return;
  const [x0, y0] = [0, 1].map((k) => Math.min(...found.map((box) => box[k])));
  const [x1, y1] = [2, 3].map((k) => Math.max(...found.map((box) => box[k])));
  const [, tall, wide] = item.spacing;
  const { sx, sy } = frame();
  const now = Math.max((x1 - x0) * sx / canvas.width, (y1 - y0) * sy / canvas.height);
  state.zoom = clamp(state.zoom / now / 2, 1, 20);
  centre(((x0 + x1) / 2) * wide, ((y0 + y1) / 2) * tall);
}

// [x0, y0, x1, y1, layer] of every outline on this slice, in voxels.
async function boxes() {
  const slice = await decode(state.z);
  return item.layers.flatMap((layer, n) => !isMask(layer) ? [] : (slice.layers[n] || []).map((loop) => {
    const [x, y] = [0, 1].map((k) => loop.map((point) => point[k]));
    return [Math.min(...x), Math.min(...y), Math.max(...x), Math.max(...y), n];
  }));
}

function choose(mark) {
  state.mark = mark;
  flash = { mark, start: performance.now() };
  const [, tall, wide] = item.spacing;
  if (state.zoom > 1) centre((mark.column + 0.5) * wide, (mark.row + 0.5) * tall);
  [...$("marks").children].forEach((line, i) =>
    line.firstChild.setAttribute("aria-pressed", item.marks[i] === mark));
  go(mark.slice);
}

// Lists ---------------------------------------------------------------------------------------

function swatch(n) {
  const node = element("i", { className: "v-swatch" });
  const { kind } = item.layers[n];
  if (isMask(item.layers[n])) {
    const [colour, , line] = styleOf(n);
    node.style.borderTop = `3px ${line} ${colour}`;
  } else {
    node.classList.add("v-ramp");
    node.style.background = gradient(stops[kind]);
    node.title = kind === "map" ? "0 to 1" : "−1 to 1";
  }
  return node;
}

function listLayers() {
  $("layers").replaceChildren(...item.layers.map((layer, n) => {
    const row = element("div", { className: "v-row" });
    const box = element("input", { type: "checkbox", checked: state.on[n] });
    const change = () => {
      state.on[n] = box.checked;
      row.classList.toggle("v-off", !box.checked); // is not printed
      refresh();
    };
    box.addEventListener("change", change);
    const opacity = element("input", { type: "range", min: 0, max: 1, step: 0.05 });
    opacity.value = state.opacity[n];
    opacity.setAttribute("aria-label", `Opacity of ${layer.name}`);
    opacity.addEventListener("input", () => {
      state.opacity[n] = Number(opacity.value);
      refresh();
    });
    const key = n < 9 ? [element("kbd", { textContent: n + 1 })] : [];
    const name = element("span", { textContent: layer.name });
    row.append(element("label", {}, box, swatch(n), name, ...key), opacity);
    change();
    return row;
  }));
}

function listMarks() {
  const lines = item.marks.map((mark) => {
    const button = element("button", { type: "button" },
      swatch(item.layers.findIndex((layer) => layer.name === mark.layer)),
      element("span", { textContent: mark.text }),
      element("small", { textContent: `slice ${mark.slice + 1}` }));
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => choose(mark));
    return element("li", {}, button);
  });
  if (!lines.length) lines.push(element("li", { textContent: "none listed" }));
  $("marks").replaceChildren(...lines);
}

const columns = [null, ...new Set(cases.flatMap((one) => one.facts.map(([name]) => name)))];
const cell = (i, name) => (name === null ? cases[i].title : new Map(cases[i].facts).get(name) || "");
const rows = cases.map((one, i) => {
  const button = element("button", { type: "button", textContent: one.title });
  const row = element("tr", {}, element("th", { scope: "row" }, button),
    ...columns.slice(1).map((name) => element("td", { textContent: cell(i, name) })));
  row.addEventListener("click", () => open(i));
  return row;
});
const heads = columns.map((name) => {
  const button = element("button", { type: "button", textContent: name === null ? "case" : name });
  const head = element("th", { scope: "col" }, button);
  const ascending = () => head.getAttribute("aria-sort") === "ascending";
  button.addEventListener("click", () => sortCases(name, ascending()));
  return head;
});

// Sorts by the number that a text begins with, else by the text; what has neither comes last.
// Without a column: as the data came, worst first.
function sortCases(name, descending = false) {
  const number = (i) => parseFloat(cell(i, name).replace("−", "-").replace(/(\d),(?=\d{3})/g, "$1"));
  const numeric = rows.some((_, i) => Number.isFinite(number(i)));
  const missing = (i) => (numeric ? Number.isNaN(number(i)) : cell(i, name) === "");
  const compare = (a, b) => numeric ? number(a) - number(b)
    : cell(a, name).localeCompare(cell(b, name), undefined, { numeric: true });
  state.shown = cases.map((_, i) => i);
  if (name !== undefined) {
    state.shown.sort((a, b) => missing(a) - missing(b)
      || (missing(a) ? 0 : compare(a, b) * (descending ? -1 : 1)));
  }
  heads.forEach((head, i) => {
    const way = descending ? "descending" : "ascending";
    head.setAttribute("aria-sort", columns[i] === name ? way : "none");
  });
  $("worst").setAttribute("aria-pressed", name === undefined);
  $("cases").querySelector("tbody").append(...state.shown.map((i) => rows[i]));
  markCase();
}

function markCase() {
  rows.forEach((row, i) => row.setAttribute("aria-current", i === state.index));
  if (!item) return;
  const place = state.shown.indexOf(state.index);
  $("count").textContent = `case ${place + 1} of ${cases.length}`;
  $("previous").disabled = place === 0;
  $("next").disabled = place === cases.length - 1;
  const [list, row] = [$("cases"), rows[state.index]]; // scrollIntoView would move the page too
  const least = row.offsetTop + row.offsetHeight - list.clientHeight;
  list.scrollTop = clamp(list.scrollTop, least, Math.max(least, row.offsetTop - 2 * row.offsetHeight));
}

// Keys, mouse, controls -----------------------------------------------------------------------

const keys = {
  ArrowDown: () => go(state.z + 1), ArrowRight: () => go(state.z + 1), // down is on, as by the wheel
  ArrowUp: () => go(state.z - 1), ArrowLeft: () => go(state.z - 1),
  PageDown: () => go(state.z + 5), PageUp: () => go(state.z - 5),
  Home: () => go(0), End: () => go(item.shape[0] - 1),
  n: () => step(1), p: () => step(-1), f: fitLesion, r: resetWindow,
  "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), 0: whole,
};

root.addEventListener("keydown", (event) => {
  const { target, key } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || target.type === "number") return;
  const moves = key.length > 1; // other sliders have these keys for themselves
  if (moves && target.type === "range" && target !== $("slice")) return;
  const box = /^[1-9]$/.test(key) && $("layers").querySelectorAll("[type=checkbox]")[key - 1];
  const act = box ? () => box.click() : keys[moves ? key : key.toLowerCase()];
  if (!act) return;
  event.preventDefault();
  act();
});

// A wheel that was already scrolling the page when the picture came under it goes on doing so.
let scrolled = -1000;
addEventListener("scroll", () => { scrolled = performance.now(); }, { passive: true });
let turned = 0;
canvas.addEventListener("wheel", (event) => {
  if (performance.now() - scrolled < 250) return;
  event.preventDefault();
  if (event.ctrlKey) {
    zoom(event.deltaY < 0 ? 1.25 : 0.8, ...millimetresAt(event));
    return;
  }
  turned += event.deltaMode ? 100 * event.deltaY : event.deltaY; // a touch pad turns in small steps
  if (Math.abs(turned) < 30) return;
  go(state.z + Math.sign(turned));
  turned = 0;
}, { passive: false });

function millimetresAt(event) {
  const { scale, density, left, top } = frame();
  return [(event.offsetX * density - left) / scale, (event.offsetY * density - top) / scale];
}

let drag = null;
canvas.addEventListener("contextmenu", (event) => event.preventDefault());
canvas.addEventListener("pointerdown", (event) => {
  if (event.button) event.preventDefault(); // no scrolling by the middle button
  canvas.focus({ preventScroll: true });
  canvas.setPointerCapture(event.pointerId);
  const kind = event.button || event.shiftKey ? "window" : "move";
  drag = { ...state, kind, at: [event.clientX, event.clientY] };
});
canvas.addEventListener("pointermove", (event) => {
  if (!drag) return showValue(event);
  const [dx, dy] = [event.clientX - drag.at[0], event.clientY - drag.at[1]];
  const { scale, density } = frame();
  const range = (item.window[1] - item.window[0]) / canvas.clientWidth; // across the picture: all
  if (drag.kind === "window") setWindow(drag.width + dx * range, drag.level + dy * range);
  else centre(drag.x - dx * density / scale, drag.y - dy * density / scale);
});
for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { drag = null; });

// The values under the pointer; grey and maps are lossy, hence "≈".
function showValue(event) {
  const [count, height, width] = item.shape;
  const [low, high] = item.window;
  const [x, y] = millimetresAt(event);
  const [column, row] = [Math.floor(x / item.spacing[2]), Math.floor(y / item.spacing[1])];
  const outside = row < 0 || column < 0 || row >= height || column >= width;
  if (outside || !state.slice) return void ($("value").textContent = "");
  const i = row * width + column;
  const grey = low + state.slice.grey[i] / 255 * (high - low);
  const parts = [`row ${row}, column ${column}`, `≈ ${grey.toPrecision(3)} ${item.unit}`.trim()];
  item.layers.forEach((layer, n) => {
    const values = state.slice.layers[n];
    if (isMask(layer) || !state.on[n]) return;
    const value = values ? units[layer.kind](values[i]) : 0;
    parts.push(`${layer.name} ≈ ${value.toFixed(2)}`);
  });
  $("value").textContent = parts.join(" · ");
}

function resize(density = devicePixelRatio || 1) {
  const { clientWidth, clientHeight } = canvas;
  if (!clientWidth) return;
  canvas.width = Math.round(clientWidth * density);
  canvas.height = Math.round(clientHeight * density);
  if (state.slice) paint(state.slice); // at once: a canvas that changes its size is blank
}

for (const [name, act] of Object.entries({
  previous: () => step(-1), next: () => step(1), reset: resetWindow, lesion: fitLesion, whole,
  in: () => zoom(1.25), out: () => zoom(0.8), worst: () => sortCases(),
})) $(name).addEventListener("click", act);
$("slice").addEventListener("input", (event) => go(Number(event.target.value) - 1));
for (const name of ["width", "level"]) {
  for (const input of all(name)) {
    const event = input.type === "range" ? "input" : "change"; // half a number is not yet one
    input.addEventListener(event, () => setWindow(...["width", "level"].map((each) =>
      each === name && input.value !== "" ? Number(input.value) : state[each])));
  }
}
$("cases").querySelector("thead tr").append(...heads);
sortCases();
open(0);
new ResizeObserver(() => resize()).observe(canvas);
for (const [event, printed] of [["beforeprint", true], ["afterprint", false]]) {
  addEventListener(event, () => {
    state.printed = printed;
    resize(printed ? 3 : undefined); // paper is finer than the screen
  });
}
