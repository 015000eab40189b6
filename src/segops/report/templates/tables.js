// What the page's scripts share, the state of the page, and its tables.
"use strict";

const root = document.documentElement;
root.classList.add("js");
const find = (selector, within = document) => within.querySelector(selector);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};

const grouped = (value) => value.toLocaleString("en").replaceAll(",", "\u202f");

// ---- What is shown lives in the part of the address after "#", so that a view can be shared.
const defaults = {sort: "", dir: "", images: "", imagesdir: "", class: "", kind: "",
  order: "wrong", layer: "prediction", picture: "", only: ""};
let state = {...defaults};

function readHash() {
  const text = location.hash.slice(1);
  if (!text.includes("=")) return false;
  const found = new URLSearchParams(text);
  state = {...defaults};
  for (const key of Object.keys(defaults)) if (found.has(key)) state[key] = found.get(key);
  return true;
}

function writeHash() {
  const set = Object.entries(state).filter(([key, value]) => value !== defaults[key]);
  const hash = new URLSearchParams(set).toString();
  history.replaceState(null, "", hash ? "#" + hash : location.pathname + location.search);
}

// ---- The images of one figure: a click on it leaves them alone, in the table and the gallery.
const places = find("#places-data") ? JSON.parse(find("#places-data").textContent) : {};
const pictures = find("#gallery-data") ? JSON.parse(find("#gallery-data").textContent) : [];
const pictured = new Set(pictures.map((one) => one.id));
const imageCells = all("#image-table tbody th.name");
const figureLinks = all("[data-only]");
let lastLink = null;

const chosenLink = () => figureLinks.find((one) => one.dataset.only === state.only);

// Pixels of the chosen figure by image; null where no figure is chosen. The address may name a
// figure that the page does not draw.
function chosenImages() {
  if (!Object.hasOwn(places, state.only) || !chosenLink()) return null;
  const [, ...pairs] = places[state.only];
  return new Map(pairs.flatMap((row, at) =>
    at % 2 ? [] : [[imageCells[row].dataset.value, pairs[at + 1]]]));
}

const isPictured = (chosen) => [...chosen.keys()].some((id) => pictured.has(id));

const chosenLabel = () => chosenLink().dataset.label;

function showOnly() {
  const chosen = chosenImages();
  if (!chosen) state.only = "";
  for (const cell of imageCells) {
    const pixels = chosen ? chosen.get(cell.dataset.value) : undefined;
    cell.parentElement.hidden = chosen !== null && pixels === undefined;
    for (const old of all("small", cell)) old.remove();
    if (pixels) {  // 0 for sets of images, as those of metadata
      cell.append(make("small", {textContent: grouped(pixels) + " px"}));
    }
  }
  for (const link of figureLinks) {
    if (link.dataset.only === state.only) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
  const told = find("#only");
  if (!told) return;
  told.hidden = !chosen;
  if (!chosen) return;
  const inAll = places[state.only][0];
  find("strong", told).textContent = chosenLabel();
  find("span", told).textContent = (chosen.size < inAll
    ? chosen.size + " of its " + grouped(inAll) + " images are listed"
    : inAll + (inAll === 1 ? " image" : " images"))
    + (isPictured(chosen) ? ""
      : "; no picture of " + (chosen.size === 1 ? "it" : "these") + " is on the page");
}

function pick(key) {
  Object.assign(state, {only: key, class: "", kind: ""});
  show();
  writeHash();
  if (key) {
    find("#images").scrollIntoView();
    find("#only button").focus({preventScroll: true});
  } else if (lastLink) {
    lastLink.focus();
  }
}

for (const link of figureLinks) {
  link.onclick = (event) => {
    event.preventDefault();
    lastLink = link;
    pick(link.dataset.only);
  };
}
if (find("#only")) find("#only button").onclick = () => pick("");

// A drawing with many links is one stop of the Tab key; the arrow keys walk within it.
for (const drawing of all("svg")) {
  const links = all("a", drawing);
  const middle = (one) => {
    const box = one.getBoundingClientRect();
    return {x: box.left + box.width / 2, y: box.top + box.height / 2};
  };
  links.forEach((one, index) => one.setAttribute("tabindex", index ? -1 : 0));
  drawing.addEventListener("keydown", (event) => {
    const ways = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
    const way = ways[event.key];
    const from = links.find((one) => one === document.activeElement);
    if (!way || !from) return;
    event.preventDefault();
    const start = middle(from);
    const ranked = links.map((one) => {
      const to = middle(one);
      const [along, aside] = way[0] ? [(to.x - start.x) * way[0], Math.abs(to.y - start.y)]
        : [(to.y - start.y) * way[1], Math.abs(to.x - start.x)];
      return {one, along, far: along + 3 * aside};
    }).filter((each) => each.along > 1).sort((a, b) => a.far - b.far);
    if (!ranked.length) return;
    from.setAttribute("tabindex", -1);
    ranked[0].one.setAttribute("tabindex", 0);
    ranked[0].one.focus();
  });
}

// ---- The tables that a click on a heading sorts.
function cellValue(row, key, text) {
  const cell = all("[data-column]", row).find((one) => one.dataset.column === key);
  const value = cell ? cell.dataset.value : undefined;
  return value === undefined ? null : text ? value.toLowerCase() : Number(value);
}

// `column` and `way` name what of the state says how the table is sorted.
function makeSortable(table, column, way) {
  const body = table.tBodies[0];
  const given = [...body.rows];
  const headings = all("th[data-key]", table);

  function sort() {
    const heading = headings.find((one) => one.dataset.key === state[column]);
    for (const one of headings) one.removeAttribute("aria-sort");
    const chosen = chosenImages();
    const pixels = (row) => chosen.get(row.cells[0].dataset.value) || 0;
    let rows = chosen && imageCells.length && table.contains(imageCells[0])
      ? [...given].sort((a, b) => pixels(b) - pixels(a)) : given;
    if (heading) {
      const text = "text" in heading.dataset;
      const down = state[way] ? state[way] === "desc" : !text;
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const ranked = given.map((row, index) => ({row, index,
        value: cellValue(row, state[column], text), last: row.classList.contains("absent")}));
      ranked.sort((a, b) => {
        if (a.last !== b.last) return a.last ? 1 : -1;
        if (a.value === null || b.value === null) {
          return (a.value === null) - (b.value === null) || a.index - b.index;
        }
        const order = a.value < b.value ? -1 : a.value > b.value ? 1 : 0;
        return (down ? -order : order) || a.index - b.index;
      });
      rows = ranked.map((one) => one.row);
    }
    body.append(...rows);
  }

  function click(heading) {
    const first = "text" in heading.dataset ? "asc" : "desc";
    const second = first === "asc" ? "desc" : "asc";
    const current = state[column] === heading.dataset.key ? state[way] || first : "";
    state[column] = current === second ? "" : heading.dataset.key;
    state[way] = current === first ? second : "";
    sort();
    writeHash();
  }

  for (const heading of headings) {
    const button = make("button", {type: "button", onclick: () => click(heading)},
      ...heading.childNodes);
    heading.append(button);
  }
  return sort;
}

const sorts = [["#class-table", "sort", "dir"], ["#image-table", "images", "imagesdir"]]
  .filter(([selector]) => find(selector))
  .map(([selector, column, way]) => makeSortable(find(selector), column, way));
function showTables() {
  showOnly();
  sorts.forEach((sort) => sort());
}
