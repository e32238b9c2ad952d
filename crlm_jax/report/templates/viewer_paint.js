// Paints a slice: the image, its layers and its labels. `item`, `state`, `canvas`, `context`, `buffer`,
// `flash` and `element` are defined in viewer.js, in the same block.

// Okabe and Ito's colours, which colour-blind readers distinguish, and line patterns for grey prints.
const OUTLINES = {
  reference: [["#56b4e9", [], "solid"], ["#009e73", [], "double"]],
  prediction: [["#e69f00", [7, 4], "dashed"], ["#cc79a7", [2, 3], "dotted"]],
};
const stops = JSON.parse(document.querySelector(".viewer .v-colours").textContent);
const isMask = (layer) => layer.kind in OUTLINES;

// 256 colours between the stops.
function ramp(points) {
  return Array.from({ length: 256 }, (_, i) => {
    const place = (i / 255) * (points.length - 1);
    const low = Math.min(Math.floor(place), points.length - 2);
    return points[low].map((c, k) => c + (points[low + 1][k] - c) * (place - low));
  });
}
const ramps = { map: ramp(stops.map), signed: ramp(stops.signed) };
const units = { map: (v) => v / 255, signed: (v) => (v - 128) / 127 }; // byte -> value
const gradient = (points) => `linear-gradient(90deg, ${points.map((c) => `rgb(${c})`).join()})`;

// Paints the grey values through the window, and the maps over them, more opaque further from 0.
function paintBuffer(slice) {
  const [, height, width] = item.shape;
  const [low, high] = item.window;
  const image = new ImageData(width, height);
  const rgba = image.data;
  const grey = Uint8ClampedArray.from({ length: 256 }, (_, i) => {
    const value = low + (i / 255) * (high - low);
    return 255 * ((value - state.level) / state.width + 0.5);
  });
  for (let i = 0; i < slice.grey.length; i++) {
    rgba[4 * i] = rgba[4 * i + 1] = rgba[4 * i + 2] = grey[slice.grey[i]];
    rgba[4 * i + 3] = 255;
  }
  item.layers.forEach((layer, n) => {
    const values = slice.layers[n];
    if (isMask(layer) || !state.on[n] || !values) return;
    for (let i = 0; i < values.length; i++) {
      const alpha = state.opacity[n] * Math.min(Math.abs(units[layer.kind](values[i])), 1);
      const colour = ramps[layer.kind][values[i]];
      for (let k = 0; k < 3; k++) rgba[4 * i + k] += alpha * (colour[k] - rgba[4 * i + k]);
    }
  });
  Object.assign(buffer, { width, height });
  buffer.getContext("2d").putImageData(image, 0, 0);
}

// Returns canvas pixels per mm (scale), per voxel (sx, sy), per pixel of the page (density) and per
// pixel of lines and letters (pen; larger in print, where the picture shrinks and they must not), and
// the place of the slice's corner.
function frame() {
  const [, height, width] = item.shape;
  const [, tall, wide] = item.spacing;
  const whole = Math.min(canvas.width / (width * wide), canvas.height / (height * tall));
  const scale = whole * state.zoom;
  const density = canvas.width / canvas.clientWidth || 1;
  return {
    scale, sx: scale * wide, sy: scale * tall, density, pen: density * (state.printed ? 2 : 1),
    left: canvas.width / 2 - state.x * scale, top: canvas.height / 2 - state.y * scale,
  };
}

function paint(slice) {
  const { sx, sy, left, top, pen } = frame();
  paintBuffer(slice);
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.fillStyle = "#000";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(buffer, left, top, buffer.width * sx, buffer.height * sy);
  item.layers.forEach((layer, n) => {
    if (!isMask(layer) || !state.on[n] || !slice.layers[n]) return;
    const path = new Path2D();
    for (const loop of slice.layers[n]) {
      loop.forEach(([x, y], i) => path[i ? "lineTo" : "moveTo"](left + x * sx, top + y * sy));
      path.closePath();
    }
    const [colour, dash] = styleOf(n);
    context.setLineDash(dash.map((d) => d * pen));
    context.globalAlpha = state.opacity[n];
    for (const [stroke, wide] of [["rgba(0,0,0,.55)", 3.6], [colour, 2]]) {
      context.strokeStyle = stroke;
      context.lineWidth = wide * pen;
      context.stroke(path);
    }
    context.globalAlpha = 1;
  });
  context.setLineDash([]);
  paintFlash();
  paintLabels();
}

// Returns the line of mask layer n, by its kind and its number within the kind.
function styleOf(n) {
  const { kind } = item.layers[n];
  const before = item.layers.slice(0, n).filter((layer) => layer.kind === kind).length;
  return OUTLINES[kind][before % OUTLINES[kind].length];
}

function paintFlash() {
  if (!flash) return;
  const seconds = (performance.now() - flash.start) / 1000;
  if (seconds > 1.6 || flash.mark.slice !== state.z) {
    flash = null;
    return;
  }
  const { sx, sy, left, top, pen } = frame();
  const x = left + (flash.mark.column + 0.5) * sx;
  const y = top + (flash.mark.row + 0.5) * sy;
  const radius = (calm.matches ? 22 : 18 + 16 * Math.abs(Math.cos(seconds * 5))) * pen;
  for (const [colour, wide] of [["#000", 6], ["#fff", 3]]) {
    context.strokeStyle = colour;
    context.lineWidth = wide * pen;
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.stroke();
  }
  requestAnimationFrame(refresh);
}

// Writes what every picture must say: case, slice, sides and scale.
function paintLabels() {
  const { scale, pen } = frame();
  const [width, height, edge] = [canvas.width, canvas.height, 10 * pen];
  context.font = `${13 * pen}px system-ui, sans-serif`;
  context.lineJoin = "round";
  const write = (text, x, y, align) => { // a long text is squeezed
    Object.assign(context, { textAlign: align, textBaseline: "middle", fillStyle: "#fff" });
    Object.assign(context, { strokeStyle: "rgba(0,0,0,.8)", lineWidth: 3 * pen });
    context.strokeText(text, x, y, width - 2 * edge);
    context.fillText(text, x, y, width - 2 * edge);
  };
  write(item.title, edge, 1.6 * edge, "left");
  const where = `${state.z + 1} / ${item.shape[0]} · ${millimetres()}`;
  write(where, width - edge, height - 1.6 * edge, "right");
  write("R", edge, height / 2, "left");
  write("L", width - edge, height / 2, "right");
  const bar = [200, 100, 50, 20, 10, 5, 2, 1].find((mm) => mm * scale < width / 4) || 1;
  const [x, y] = [edge, height - 1.6 * edge];
  context.fillStyle = "#000";
  context.fillRect(x - pen, y - 2 * pen, bar * scale + 2 * pen, 4 * pen);
  context.fillStyle = "#fff";
  context.fillRect(x, y - pen, bar * scale, 2 * pen);
  write(`${bar} mm`, x, y - 12 * pen, "left");
}

const millimetres = () => `${(state.z * item.spacing[0]).toFixed(1)} mm`;
