// The viewer: what is in view, and how it changes. viewer.py joins all scripts to one block, this one
// after viewer_slices.js and viewer_paint.js. Text from the data is always set as text, never as HTML.

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

// Decodes slice z: a promise of {grey, layers}, a layer being loops, values or null. The last KEPT
// slices are kept.
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

// Draws at the next frame, once for all changes until then.
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
  if (item !== opened || state.z !== z) return; // the view has changed meanwhile
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
  $("note").textContent = item.layers.map((layer) => layer.note || "").join(" ").trim();
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
