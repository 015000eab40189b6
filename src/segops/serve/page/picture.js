// An image, its predictions, and the figures that show them.

import {predict} from "./api.js";
import {draw, find, make, nameOf, percent, save} from "./dom.js";
import * as layers from "./layers.js";

/** An image that a person gave; `answers` holds for each model its result or its error. */
export class Picture {
  constructor(file) {
    this.file = file;
    this.name = file.name || "pasted image";
    this.url = URL.createObjectURL(file);
    this.state = "waiting";
    this.failure = "";
    this.answers = new Map();
    this.maps = new Map(); // confidence and activations by model and name
    this.marks = [];
  }

  /** Drop the predictions and wait for new ones. */
  wait() {
    this.answers.clear();
    this.maps.clear();
    this.state = "waiting";
  }

  /** Whether a prediction is not of the version that is among the models now. */
  isOld(models) {
    return models.some((model) => {
      const answer = this.answers.get(model.key);
      return answer && !answer.error && (!answer.result || answer.digest !== model.digest);
    });
  }

  forget() {
    URL.revokeObjectURL(this.url);
    this.thumb.remove();
  }

  /** Predict the image with every model; an error of one leaves the others. */
  async predictAll(models, waiting) {
    await Promise.all(models.map(async (model) => {
      try {
        const {model: used, results: [result]} =
          await predict(this.file, model.key, {mask: true}, waiting);
        if (used.digest !== model.digest) {
          this.answers.set(model.key, {}); // of a newer version, whose classes are not known here
          return;
        }
        const ids = await layers.classIds(result.mask, model.classes);
        this.answers.set(model.key, {result, ids, digest: used.digest});
      } catch (error) {
        this.answers.set(model.key, {error});
      }
    }));
    const failed = [...this.answers.values()].find((one) => one.error);
    this.state = failed ? "failed" : "done";
    this.failure = failed ? failed.error.message : "";
    return failed?.error;
  }

  /** The confidence map, or the activation map of a class; asked for once. */
  map(model, name) {
    const place = JSON.stringify([model.key, name]);
    if (!this.maps.has(place)) {
      const asked = name === null ? {confidence_map: true} : {explain: name};
      const found = predict(this.file, model.key, asked).then(({results: [result]}) =>
        layers.greyValues(name === null ? result.confidence_map : result.activation));
      found.catch(() => this.maps.delete(place)); // the next time it is asked for again
      this.maps.set(place, found);
    }
    return this.maps.get(place);
  }
}

/** Shows a picture with the prediction of one model. */
export class Figure {
  constructor(picture, model, several, light) {
    this.picture = picture;
    this.model = model;
    this.confidence = null;
    this.layer = this.veil = null;
    this.photo = make("img", {className: "photo", src: picture.url, alt: picture.name});
    this.stage = make("div", {className: "stage"}, this.photo);
    this.marks = draw("svg", {class: "marks"});
    this.stage.append(this.marks);
    this.said = make("p", {className: "said", role: "status"});
    this.read = make("span", {className: "read muted"});
    this.head = make("div", {className: "head"},
      make("strong", {className: "name", textContent: several ? nameOf(model) : picture.name}),
      this.read);
    this.downloads = make("div", {className: "downloads", hidden: true});
    this.element = make("figure", {}, this.head, this.stage, this.said, this.downloads);
    this.element.dataset.key = model.key;
    this.photo.addEventListener("load", () => {
      if (!this.answer?.result) this.size(this.photo.naturalWidth, this.photo.naturalHeight);
    });
    this.photo.addEventListener("error", () => {
      this.photo.hidden = true;
      this.stage.dataset.unseen = "This browser does not show this format.";
      this.refresh();
    });
    this.stage.addEventListener("click", (event) => {
      const id = this.idAt(event);
      if (id !== null && !this.stage.classList.contains("marking")) light(id);
    });
    this.stage.addEventListener("pointermove", (event) => this.tell(event));
    this.stage.addEventListener("pointerleave", () => this.tellConfidence());
    this.offer();
    this.refresh();
  }

  get answer() {
    return this.picture.answers.get(this.model.key);
  }

  /** Give the stage an image's extent in pixels. */
  size(width, height) {
    this.stage.style.setProperty("--ratio", width / height);
    this.marks.setAttribute("viewBox", `0 0 ${width} ${height}`);
  }

  /** Take what the picture knows by now. */
  refresh() {
    const {answer} = this;
    this.stage.classList.toggle("waiting", !answer);
    this.said.classList.toggle("wrong", Boolean(answer?.error));
    this.said.textContent = answer?.error?.message ?? (answer ? "" : "Predicting…");
    this.downloads.hidden = !answer?.result;
    this.stage.hidden = Boolean(answer?.error) && this.photo.hidden;
    if (!answer?.result) return;
    const {result} = answer;
    this.size(result.width, result.height);
    const shares = result.classes.filter((one) => one.pixels).sort((a, b) => b.share - a.share);
    this.photo.alt = `${this.picture.name}: ${shares.slice(0, 6)
      .map((one) => `${one.name} ${percent(one.share)}`).join(", ")}`;
    this.tellConfidence();
  }

  tellConfidence() {
    const {result} = this.answer ?? {};
    this.read.textContent = result ? `confidence ${percent(result.confidence)}` : "";
  }

  pixelAt(event) {
    const box = this.stage.getBoundingClientRect(), {ids} = this.answer;
    const x = Math.floor((event.clientX - box.left) / box.width * ids.width);
    const y = Math.floor((event.clientY - box.top) / box.height * ids.height);
    return x < 0 || y < 0 || x >= ids.width || y >= ids.height ? null : y * ids.width + x;
  }

  idAt(event) {
    const pixel = this.answer?.ids ? this.pixelAt(event) : null;
    return pixel === null ? null : this.answer.ids.values[pixel];
  }

  tell(event) {
    const id = this.idAt(event);
    if (id === null) return;
    const value = this.confidence?.values[this.pixelAt(event)];
    const sure = value === undefined ? "" : ` ${percent(value / 255)}`;
    this.read.textContent = `${this.model.classes[id].name}${sure}`;
  }

  /** Draw a view over the photograph. */
  async show({view, lit, explained}) {
    const {ids} = this.answer ?? {};
    const turn = this.turn = (this.turn ?? 0) + 1; // a later call overtakes this one
    if (!ids) return;
    const {classes, background} = this.model;
    let canvas;
    try {
      if (view === "overlay") canvas = layers.tinted(ids, classes, background, lit);
      else if (view === "mask") canvas = layers.plain(ids, classes, lit);
      else canvas = await this.heat(view, explained, turn);
    } catch (error) {
      if (turn !== this.turn) return;
      this.said.textContent = error.message;
      this.said.classList.add("wrong");
    }
    if (turn !== this.turn) return;
    const dark = lit === null || view === "mask" ? null : layers.veil(ids, classes, lit);
    this.layer?.remove();
    this.veil?.remove();
    [this.layer, this.veil, this.view] = [canvas ?? null, dark, view];
    for (const [one, name] of [[dark, "veil"], [canvas, `layer ${view}`]]) {
      if (!one) continue;
      one.className = name;
      this.marks.before(one);
    }
  }

  async heat(view, explained, turn) {
    this.said.textContent = "Asking the server…";
    const grey = await this.picture.map(this.model, view === "confidence" ? null : explained);
    if (turn === this.turn) this.said.textContent = "";
    if (view === "confidence") this.confidence = grey;
    return layers.heat(grey, view === "activation");
  }

  /** Offer the downloads. */
  offer() {
    const stem = this.picture.name.replace(/\.[^.]*$/, "") || "image";
    const add = (text, label, name, content) => {
      const button = make("button", {className: "plain", type: "button", textContent: text,
        ariaLabel: label});
      button.addEventListener("click", async () => {
        try {
          save(await content(), `${stem}${name}`);
        } catch (error) {
          this.said.textContent = error.message;
          this.said.classList.add("wrong");
        }
      });
      this.downloads.append(button);
    };
    const of = `of ${this.picture.name} by ${nameOf(this.model)}`;
    this.downloads.append(make("span", {className: "muted", textContent: "Download:"}));
    add("Mask", `Mask ${of}, PNG of class ids`, ".png", () =>
      new Blob([layers.bytesOf(this.answer.result.mask)], {type: "image/png"}));
    add("Picture as shown", `Picture as shown ${of}, PNG`, ".overlay.png", () => this.flat());
    add("JSON", `Shares and outlines ${of}, JSON`, ".json", async () => {
      const told = await predict(this.picture.file, this.model.key, {polygons: true});
      return new Blob([JSON.stringify(told, null, 1)], {type: "application/json"});
    });
  }

  flat() {
    const strength = Number(find("#opacity").value) / 100;
    const over = [];
    if (this.veil) over.push([this.veil, 1]);
    if (this.layer) over.push([this.layer, this.view === "mask" ? 1 : strength]);
    return layers.flattened(this.photo.hidden ? null : this.photo, over, this.answer.ids);
  }
}
