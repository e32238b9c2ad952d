// Decodes the slices that viewer.py encodes: base64 -> voxels and outlines.

const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

// Decodes a JPEG to its H × W grey values.
async function picture(text, [, height, width]) {
  const image = await createImageBitmap(new Blob([bytes(text)], { type: "image/jpeg" }));
  const paper = element("canvas", { width, height }).getContext("2d", { willReadFrequently: true });
  paper.drawImage(image, 0, 0);
  const rgba = paper.getImageData(0, 0, width, height).data;
  const grey = new Uint8Array(width * height);
  for (let i = 0; i < grey.length; i++) grey[i] = rgba[4 * i];
  return grey;
}

// Decodes the deflated bits of a mask to its closed outlines.
async function outlines(text, [, height, width]) {
  const stream = new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
  const packed = new Uint8Array(await new Response(stream).arrayBuffer());
  const inside = (row, column) => {
    if (row < 0 || column < 0 || row >= height || column >= width) return false;
    const i = row * width + column;
    return ((packed[i >> 3] >> (7 - (i & 7))) & 1) === 1;
  };
  return trace(inside, height, width);
}

// Walks along the borders between inside and outside, with the inside on the right hand. A loop
// joins the middles of the voxel edges, so that a line may be dashed and corners look cut; its
// points are [x, y] in voxels, with 0 at the edge of the first.
function trace(inside, height, width) {
  const from = new Map(); // corner -> the corners that an edge leads to
  const edge = (x0, y0, x1, y1) => {
    const key = y0 * (width + 1) + x0;
    if (!from.has(key)) from.set(key, []);
    from.get(key).push([x1, y1]);
  };
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (!inside(y, x)) continue;
      if (!inside(y - 1, x)) edge(x, y, x + 1, y);
      if (!inside(y, x + 1)) edge(x + 1, y, x + 1, y + 1);
      if (!inside(y + 1, x)) edge(x + 1, y + 1, x, y + 1);
      if (!inside(y, x - 1)) edge(x, y + 1, x, y);
    }
  }
  const loops = [];
  for (const [start, ends] of from) {
    while (ends.length) {
      const loop = [];
      let key = start;
      do {
        const [x, y] = from.get(key).pop();
        const [x0, y0] = [key % (width + 1), Math.floor(key / (width + 1))];
        loop.push([(x0 + x) / 2, (y0 + y) / 2]);
        key = y * (width + 1) + x;
      } while (key !== start);
      loops.push(loop);
    }
  }
  return loops;
}
