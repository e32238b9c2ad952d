// Keys, mouse and controls, and the start of the viewer. It runs as soon as the first case has been
// read, while the browser still reads the voxels of the others.

const keys = {
  ArrowDown: () => go(state.z + 1), ArrowRight: () => go(state.z + 1), // as with the wheel
  ArrowUp: () => go(state.z - 1), ArrowLeft: () => go(state.z - 1),
  PageDown: () => go(state.z + 5), PageUp: () => go(state.z - 5),
  Home: () => go(0), End: () => go(item.shape[0] - 1),
  n: () => step(1), p: () => step(-1), f: fitLesion, r: resetWindow,
  "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), 0: whole,
};

root.addEventListener("keydown", (event) => {
  const { target, key } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || target.type === "number") return;
  const moves = key.length > 1; // in other sliders these keys move the slider
  if (moves && target.type === "range" && target !== $("slice")) return;
  const box = /^[1-9]$/.test(key) && $("layers").querySelectorAll("[type=checkbox]")[key - 1];
  const act = box ? () => box.click() : keys[moves ? key : key.toLowerCase()];
  if (!act) return;
  event.preventDefault();
  act();
});

// A wheel that was scrolling the page when the picture came under the pointer goes on scrolling.
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
  turned += event.deltaMode ? 100 * event.deltaY : event.deltaY; // a touch pad sends small steps
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
  const range = (item.window[1] - item.window[0]) / canvas.clientWidth; // for a drag across
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
  if (state.slice) paint(state.slice); // at once, since a canvas is blank after a change of size
}

for (const [name, act] of Object.entries({
  previous: () => step(-1), next: () => step(1), reset: resetWindow, lesion: fitLesion, whole,
  in: () => zoom(1.25), out: () => zoom(0.8), worst: () => sortCases(),
})) $(name).addEventListener("click", act);
$("slice").addEventListener("input", (event) => go(Number(event.target.value) - 1));
for (const name of ["width", "level"]) {
  for (const input of all(name)) {
    const event = input.type === "range" ? "input" : "change"; // a number is read when it is complete
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
