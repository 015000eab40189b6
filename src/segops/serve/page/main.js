// The page: what is chosen, what is shown, and the queue of predictions.

import {askModel, useKey} from "./api.js";
import {all, announce, find, make, nameOf, percent} from "./dom.js";
import * as intake from "./intake.js";
import * as legend from "./legend.js";
import {Marking} from "./marking.js";
import {Figure, Picture} from "./picture.js";
import * as strip from "./strip.js";

const AT_ONCE = 2;
const VIEWS = {
  overlay: ["Classes in their colours over the photograph.", null],
  mask: ["The class of every pixel.", null],
  confidence: ["How sure the model is of every pixel: the probability of its class.",
    ["0 %", "100 %"]],
  activation: ["Where the network looks for", ["nowhere", "most"]],
};
const state = {view: "overlay", lit: null, explained: null};
const marking = new Marking();
let told = null; // what GET /model told
let pictures = [];
let chosen = null;
let figures = [];
let busy = 0;

// ---- The model, and the key where the server asks for one.
async function learn() {
  find("#trouble").hidden = true;
  try {
    told = await askModel((refused) => {
      find("#model").textContent = refused.message;
    });
  } catch (error) {
    refuse(error);
    return;
  }
  find("#key").hidden = true;
  const {models} = told;
  find("#model").textContent = `${models.map(nameOf).join(" beside ")} · `
    + `${models[0].classes.length} classes · ${models[0].runtime}`;
  find("#marks").hidden = !told.marks;
  about(models);
  for (const one of pictures) {
    if (one.state === "working" || !one.isOld(models)) continue;
    if (one === chosen && marking.isOpen) marking.end();
    one.wait();
    strip.say(one);
  }
  if (chosen) choose(chosen);
}

/** Ask for the key, or say what is wrong. */
function refuse(error) {
  if (error.status === 401) {
    const isFirst = find("#key").hidden;
    find("#key").hidden = false;
    find("#key .wrong").textContent = isFirst ? "" : error.message;
    find("#model").textContent = "";
    find("#key-text").focus();
  } else {
    find("#trouble p").textContent = error.message;
    find("#trouble").hidden = false;
  }
}

function about(models) {
  find("#about").hidden = false;
  find("#about div").replaceChildren(...models.map((model) => {
    const list = make("dl");
    const facts = {Version: model.version ?? "–", Digest: model.digest, Runtime: model.runtime,
      Doubt: model.lineage_doubt ?? "", ...model.lineage};
    for (const [name, value] of Object.entries(facts)) {
      if (value === "") continue;
      list.append(make("dt", {textContent: name}), make("dd", {textContent: String(value)}));
    }
    return make("div", {}, make("h3", {textContent: nameOf(model)}), list,
      make("pre", {className: "small", textContent: model.card}));
  }));
}

find("#key form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(find("#key-text").value);
  find("#key-text").value = "";
  learn();
});
find("#again").addEventListener("click", () => {
  for (const one of pictures) if (one.state === "failed") one.state = "waiting";
  learn();
});

// ---- The queue: what a person looks at comes first.
function work() {
  while (told && busy < AT_ONCE) {
    const next = chosen?.state === "waiting" ? chosen
      : pictures.find((one) => one.state === "waiting");
    if (!next) return;
    busy += 1;
    run(next).finally(() => {
      busy -= 1;
      work();
    });
  }
}

async function run(picture) {
  picture.state = "working";
  strip.say(picture);
  const failure = await picture.predictAll(told.models, (refused) => {
    if (picture === chosen) announce(refused.message);
  });
  if (failure && [0, 401].includes(failure.status)) {
    // Not the image's fault: all wait until the server answers again.
    picture.wait();
    told = null;
    refuse(failure);
  } else if (told && picture.isOld(told.models)) {
    told = null; // another version was promoted meanwhile
    learn();
  }
  if (!pictures.includes(picture)) return;
  strip.say(picture);
  if (picture === chosen) present(true);
}

// ---- What is shown.
function take(files, passedOver) {
  const room = intake.MOST - pictures.length;
  const added = files.slice(0, room).map((file) => new Picture(file));
  const said = [];
  if (passedOver === 1) said.push("1 file that is no image was passed over.");
  if (passedOver > 1) said.push(`${passedOver} files that are no images were passed over.`);
  if (files.length > room) said.push(`This page holds ${intake.MOST} images; the rest was left.`);
  find("#passed-over").textContent = said.join(" ");
  if (!added.length) return;
  pictures.push(...added);
  for (const one of added) strip.add(one, choose);
  find("#intake").classList.add("small-intake");
  find("#clear").hidden = false;
  find("#strip").hidden = pictures.length < 2;
  choose(added[0]);
  work();
}

function choose(picture) {
  chosen = picture;
  strip.mark(picture);
  find("#result").hidden = false;
  const models = told?.models ?? [];
  figures = models.map((model) => new Figure(picture, model, models.length > 1, (id) =>
    light(model.classes[id].name)));
  find(".work").classList.toggle("beside", models.length > 1);
  find("#figures").replaceChildren(...figures.map((one) => one.element));
  if (figures.length) marking.use(figures[0]);
  present(false);
  work();
}

/** Show the chosen picture as the state says. */
function present(isNew) {
  if (!figures.length || figures[0].picture !== chosen) {
    return;
  }
  const canExplain = told?.models[0].runtime === "torch";
  legend.show(chosen, figures.map((one) => one.model), state, light, canExplain ? explain : null);
  find("#hint").textContent = "Choose a class, or a place in the picture, to highlight it."
    + (canExplain ? "" : " This runtime cannot explain a class; torch can.");
  const answers = figures.map((one) => one.answer);
  find("#result").classList.toggle("nothing", answers.every((one) => one?.error));
  const [text, scale] = VIEWS[state.view];
  const what = state.view === "activation" ? `${text} ${state.explained} (Seg-Grad-CAM).` : text;
  find("#viewed").textContent = figures.length > 1 ? `${chosen.name}: ${what}` : what;
  find("[value=activation]").parentElement.hidden = state.explained === null;
  find(".scale-key").hidden = scale === null;
  [find(".low").textContent, find(".high").textContent] = scale ?? ["", ""];
  find("#opacity").disabled = state.view === "mask";
  for (const figure of figures) {
    figure.refresh();
    figure.show({...state, lit: idOf(figure.model, state.lit)});
  }
  if (isNew) {
    marking.redraw();
    tellResult();
  }
}

function idOf(model, name) {
  const one = model.classes.find((each) => each.name === name);
  return name === null ? null : one?.id ?? -1;
}

function tellResult() {
  const {result, error} = figures[0].answer ?? {};
  if (error) announce(`${chosen.name}: ${error.message}`);
  if (!result) return;
  const seen = result.classes.filter((one) => one.pixels).sort((a, b) => b.share - a.share);
  announce(`${chosen.name}: ${seen.length} classes; `
    + seen.slice(0, 3).map((one) => `${one.name} ${percent(one.share)}`).join(", "));
}

function light(name) {
  state.lit = state.lit === name ? null : name;
  announce(state.lit === null ? "No class is highlighted." : `${name} is highlighted.`);
  present(false);
}

function explain(name) {
  state.explained = name;
  state.lit = null;
  view("activation");
}

function view(name) {
  state.view = name;
  find(`[name=view][value=${name}]`).checked = true;
  present(false);
}

for (const one of all("[name=view]")) one.addEventListener("change", () => view(one.value));
const opacity = find("#opacity");
const fade = () => document.documentElement.style.setProperty("--opacity", opacity.value / 100);
opacity.addEventListener("input", fade);
addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.defaultPrevented || marking.isOpen) return;
  state.lit = null;
  if (state.view === "activation") view("overlay");
  else if (chosen) present(false);
});
find("#clear").addEventListener("click", () => {
  if (marking.isOpen) marking.end();
  for (const one of pictures) one.forget();
  [pictures, chosen, figures] = [[], null, []];
  [state.lit, state.explained] = [null, null];
  if (state.view === "activation") view("overlay");
  find("#figures").replaceChildren();
  find("#result").hidden = true;
  find("#clear").hidden = true;
  find("#strip").hidden = true;
  find("#passed-over").textContent = "";
  find("#intake").classList.remove("small-intake");
  find("#choose").focus();
});

fade();
strip.listen();
intake.listen(take);
learn();
