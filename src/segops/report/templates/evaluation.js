// The pictures, and what happens when the page opens. tables.js comes before it.
"use strict";

// ---- The pictures.
const gallery = pictures.length ? makeGallery() : null;

function makeGallery() {
  const place = find("#gallery");
  const cards = find("#cards");
  const classFilter = find("#class-filter");
  const order = find("#order");
  const opacity = find("#opacity");
  const viewer = find("#viewer");
  const chips = all(".chip", place);
  const layers = all("input[name=layer]", place);
  const colours = Object.fromEntries(all("#class-table tbody th.name").map((cell) =>
    [cell.dataset.value, find(".swatch", cell).style.background]));
  const kindColours = Object.fromEntries(chips.map((chip) =>
    [chip.dataset.kind, find(".swatch", chip).style.background]));
  const kindOrder = chips.map((chip) => chip.dataset.kind);
  const classOrder = Object.keys(colours);
  let listed = [];
  let chosen = null;

  const uri = (type, data) => "data:image/" + type + ";base64," + data;
  const percent = (share) => share === null ? "–" : share > 0 && share < 0.0005 ? "<0.1\u202f%"
    : (100 * share).toFixed(1) + "\u202f%";
  const decimal = (value) => value === null ? "–" : value.toFixed(3);
  const chosenKinds = () => kindOrder.filter((kind) => state.kind.split(",").includes(kind));
  const sum = (errors) => errors.reduce((total, one) => total + one[2], 0);
  const errorsOf = (picture, name, kinds) => picture.errors.filter((one) =>
    (!name || one[0] === name) && (!kinds.length || kinds.includes(one[1])));

  // A class alone finds every picture that holds it; with a kind, those where it went wrong so.
  function matches(picture, name, kinds) {
    if (chosen && !chosen.has(picture.id)) return false;
    if (!kinds.length) return !name || picture.classes.includes(name);
    return errorsOf(picture, name, kinds).length > 0;
  }

  function stage(picture, layer) {
    const box = make("div", {className: "stage"});
    const images = [make("img", {className: "photo", alt: "photograph " + picture.id,
      src: uri("jpeg", picture.photo)})];
    if (layer !== "photo" && picture[layer]) {
      images.push(make("img", {className: "layer " + layer, alt: "",
        src: uri("png", picture[layer])}));
    }
    box.style.aspectRatio = picture.width + " / " + picture.height;
    box.append(...images);
    return box;
  }

  // Pictures are decoded when their card comes near the window.
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      watcher.unobserve(entry.target);
      fill(entry.target);
    }
  }, {rootMargin: "600px"});

  function fill(card) {
    card.dataset.filled = state.layer;
    find(".stage", card).replaceWith(stage(pictures[card.dataset.index], state.layer));
  }

  function swatch(colour) {
    const square = make("i", {className: "swatch"});
    square.style.background = colour;
    return square;
  }

  function card(picture, index) {
    const box = make("div", {className: "stage"});
    box.style.aspectRatio = picture.width + " / " + picture.height;
    const share = picture.pixels ? sum(picture.errors) / picture.pixels : null;
    const caption = make("div", {className: "caption"},
      make("strong", {className: "mono", textContent: picture.id}),
      make("span", {className: "facts", textContent: "score " + decimal(picture.score) + " · "
        + percent(share) + " wrong" + (picture.confidence === null ? ""
        : " · confidence " + decimal(picture.confidence))}));
    const shown = errorsOf(picture, state.class, chosenKinds()).slice(0, 3);
    if (shown.length) caption.append(make("ul", {}, ...shown.map((one) =>
      make("li", {}, swatch(kindColours[one[1]]), one[0] + ", " + one[1]))));
    if (picture.explained) {
      caption.append(make("span", {className: "facts explained", textContent: "looked for "
        + picture.explained}));
    }
    const button = make("button", {type: "button", className: "picture", onclick: () =>
      view(picture.id)}, box, caption);
    button.dataset.index = index;
    button.dataset.id = picture.id;
    return button;
  }

  function count() {
    const kinds = chosenKinds();
    const options = classOrder.map((name) =>
      [name, pictures.filter((one) => matches(one, name, kinds)).length]);
    classFilter.replaceChildren(new Option("all (" + pictures.filter((one) =>
      matches(one, "", kinds)).length + ")", ""), ...options.filter(([name, number]) =>
      number || name === state.class).map(([name, number]) =>
      new Option(name + " (" + number + ")", name)));
    classFilter.value = state.class;
    for (const chip of chips) {
      const number = pictures.filter((one) => matches(one, state.class, [chip.dataset.kind])).length;
      find(".count", chip).textContent = number;
      chip.setAttribute("aria-pressed", String(kinds.includes(chip.dataset.kind)));
    }
  }

  function ranked() {
    const kinds = chosenKinds();
    const entries = pictures.map((picture, index) => ({picture, index}))
      .filter((one) => matches(one.picture, state.class, kinds)
        && (state.layer !== "activation" || one.picture.activation));
    const known = (value) => value === null ? Infinity : value;
    const keys = {
      // Those of the chosen figure, which are 0 for sets of images.
      wrong: (one) => -((chosen && chosen.get(one.id)) || sum(errorsOf(one, state.class, kinds))),
      score: (one) => known(one.score),
      confidence: (one) => known(one.confidence),
      given: () => 0,
    };
    const key = keys[state.order] || keys.wrong;
    const value = new Map(entries.map((one) => [one, key(one.picture)]));
    entries.sort((a, b) => value.get(a) < value.get(b) ? -1 : value.get(a) > value.get(b) ? 1
      : a.index - b.index);
    return entries;
  }

  function list() {
    if (!classOrder.includes(state.class)) state.class = "";
    chosen = chosenImages();
    layer();
    count();
    order.value = state.order;
    if (order.selectedIndex < 0) order.value = state.order = defaults.order;
    listed = ranked();
    watcher.disconnect();
    cards.replaceChildren(...listed.map((one) => card(one.picture, one.index)));
    for (const one of cards.children) watcher.observe(one);
    find("#shown").textContent = listed.length + " of " + pictures.length + " pictures"
      + (chosen ? ": " + chosenLabel() : "");
    find("#nothing").hidden = listed.length > 0;
    find("#nothing").textContent = chosen && !isPictured(chosen)
      ? "No picture of these images is on the page." : "No picture is like that.";
  }

  function layer() {
    const chosen = layers.find((one) => one.value === state.layer)
      || layers.find((one) => one.value === defaults.layer);
    chosen.checked = true;
    state.layer = place.dataset.layer = chosen.value;
    place.style.setProperty("--opacity", opacity.value / 100);
    opacity.disabled = state.layer === "photo";
  }

  function pickLayer(name) {
    const anew = [state.layer, name].includes("activation");
    state.layer = name;
    if (anew) {
      list();
    } else {
      layer();
      for (const one of all("[data-filled]", cards)) fill(one);
    }
    writeHash();
  }

  function panel(picture, name, title) {
    return make("figure", {}, make("figcaption", {textContent: title}), stage(picture, name));
  }

  // Everything that is known of one picture, side by side.
  function view(id) {
    const index = listed.findIndex((one) => one.picture.id === id);
    const picture = pictures.find((one) => one.id === id);
    if (!picture) return;
    state.picture = id;
    find("#viewer-title").textContent = picture.id;
    find(".place", viewer).textContent = index < 0 ? "" : (index + 1) + " of " + listed.length;
    const panels = [panel(picture, "photo", "photograph"), panel(picture, "truth", "ground truth"),
      ...layers.filter((one) => /^prediction$|^other/.test(one.value)).map((one) =>
        panel(picture, one.value, one.nextElementSibling.textContent)),
      panel(picture, "kinds", "errors")];
    if (picture.activation) {
      panels.push(panel(picture, "activation", "explanation: " + picture.explained));
    }
    panels.push(make("div", {className: picture.activation ? "details" : "details wide"},
      facts(picture), errorTable(picture)));
    find(".panels", viewer).replaceChildren(...panels);
    viewer.scrollTop = 0;
    if (!viewer.open) viewer.showModal();
    writeHash();
  }

  function facts(picture) {
    const rows = [["image score", decimal(picture.score)],
      ["confidence", decimal(picture.confidence)],
      ["size", picture.width + " × " + picture.height],
      ["wrong pixels", grouped(sum(picture.errors))],
      ["classes", ...picture.classes.map((name) => make("span", {},
        swatch(colours[name]), name))]];
    return make("dl", {}, ...rows.flatMap(([name, ...values]) =>
      [make("dt", {textContent: name}), make("dd", {}, ...values)]));
  }

  function errorTable(picture) {
    if (!picture.errors.length) return make("p", {textContent: "No pixel is wrong."});
    const head = make("tr", {}, ...["error", "pixels", "of the image"].map((text, index) =>
      make("th", {textContent: text, className: index ? "n" : ""})));
    const rows = picture.errors.map((one) => make("tr", {},
      make("td", {}, swatch(kindColours[one[1]]), one[0] + ", " + one[1]),
      make("td", {className: "n", textContent: grouped(one[2])}),
      make("td", {className: "n", textContent: percent(one[2] / picture.pixels)})));
    return make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows));
  }

  function step(by) {
    const index = listed.findIndex((one) => one.picture.id === state.picture);
    if (listed.length) view(listed[(index + by + listed.length) % listed.length].picture.id);
  }

  function filter(changes) {
    Object.assign(state, changes);
    if ("only" in changes) showTables();
    list();
    writeHash();
  }

  classFilter.onchange = () => filter({class: classFilter.value});
  order.onchange = () => filter({order: order.value});
  opacity.oninput = layer;
  find("#reset").onclick = () => filter({class: "", kind: "", only: "",
    order: defaults.order});
  for (const chip of chips) {
    chip.onclick = () => {
      const kinds = chosenKinds();
      const kind = chip.dataset.kind;
      const next = kinds.includes(kind) ? kinds.filter((one) => one !== kind) : [...kinds, kind];
      filter({kind: next.join(",")});
    };
  }
  for (const one of layers) one.onchange = () => pickLayer(one.value);
  for (const button of all("[data-step]", viewer)) {
    button.onclick = () => step(Number(button.dataset.step));
  }
  find("[data-close]", viewer).onclick = () => viewer.close();
  viewer.onclick = (event) => { if (event.target === viewer) viewer.close(); };
  viewer.onclose = () => {
    const card = all(".picture", cards).find((one) => one.dataset.id === state.picture);
    state.picture = "";
    writeHash();
    if (card) card.focus();
  };
  for (const cell of all("#image-table tbody th.name")) {
    const id = cell.dataset.value;
    if (!pictured.has(id)) continue;
    cell.replaceChildren(make("a", {href: "#picture=" + encodeURIComponent(id),
      textContent: id, onclick: (event) => { event.preventDefault(); view(id); }}));
  }
  for (const link of all("a[data-filter]")) {
    link.onclick = (event) => {
      event.preventDefault();
      const wanted = new URLSearchParams(link.hash.slice(1));
      filter({class: wanted.get("class") || "", kind: wanted.get("kind") || "", only: ""});
      find("#pictures").scrollIntoView();
    };
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (viewer.open && (event.key === "ArrowLeft" || event.key === "ArrowRight")) {
      step(event.key === "ArrowLeft" ? -1 : 1);
    } else if (event.target.closest("select")) {
      return;
    } else if (/^[1-9]$/.test(event.key) && layers[event.key - 1]) {
      pickLayer(layers[event.key - 1].value);
    } else if (event.key === "-" || event.key === "+") {
      opacity.value = Number(opacity.value) + (event.key === "+" ? 10 : -10);
      layer();
    } else {
      return;
    }
    event.preventDefault();
  });
  place.hidden = false;
  return {list, view};
}

function show() {
  showTables();
  if (!gallery) return;
  gallery.list();
  if (state.picture) gallery.view(state.picture);
  else find("#viewer").close();
}

const shared = readHash();
show();
if (shared && state.only) find("#images").scrollIntoView();
else if (shared && gallery && (state.class || state.kind)) find("#pictures").scrollIntoView();
window.addEventListener("hashchange", () => { if (readHash()) show(); });
