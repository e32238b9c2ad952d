// The lists of layers, lesions and cases. The names that it uses are viewer.js's.

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
      row.classList.toggle("v-off", !box.checked); // a layer that is off is not printed
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

// Sorts by the number that a text begins with, else by the text; empty cells come last. Without a
// column the order is that of the data, worst first.
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
