// Marking a wrong region: a rectangle or polygon on the photograph, its right class, a note.

import {sendMark} from "./api.js";
import {all, draw, find, make} from "./dom.js";

const HOW = {
  rectangle: "Drag over the wrong region. With the keyboard: arrow keys move the cross, Space sets "
    + "two corners.",
  polygon: "Click the corners, then the first one again. With the keyboard: arrow keys move the "
    + "cross, Space sets a corner, Enter closes, Backspace takes the last corner away.",
};
const STEPS = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
const NEAR = 12; // CSS pixels within which a click closes a polygon

export class Marking {
  constructor() {
    this.figure = null;
    this.corners = [];
    this.isClosed = false;
    this.form = find("#mark-form");
    this.button = find("#mark");
    this.button.addEventListener("click", () => (this.isOpen ? this.end() : this.begin()));
    find("#mark-cancel").addEventListener("click", () => this.end());
    for (const one of all("[name=tool]")) one.addEventListener("change", () => this.clear());
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    this.form.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.end();
    });
  }

  get isOpen() {
    return !this.form.hidden;
  }

  get tool() {
    return find("[name=tool]:checked").value;
  }

  /** Mark on another figure from now on. */
  use(figure) {
    if (this.isOpen) this.end();
    this.figure = figure;
    const {svg} = this;
    svg.addEventListener("pointerdown", (event) => this.press(event));
    svg.addEventListener("pointermove", (event) => this.drag(event));
    svg.addEventListener("pointerup", (event) => this.release(event));
    svg.addEventListener("keydown", (event) => this.type(event));
    find("#mark-class").replaceChildren(
      make("option", {value: "", textContent: "Choose…"}),
      ...figure.model.classes.map((one) => make("option", {value: one.name,
        textContent: one.name})));
    this.redraw();
  }

  get svg() {
    return this.figure.marks;
  }

  get extent() {
    const {width, height} = this.figure.answer.ids;
    return {width, height};
  }

  begin() {
    if (!this.figure?.answer?.ids) return;
    this.form.hidden = false;
    this.button.ariaExpanded = "true";
    this.figure.stage.classList.add("marking");
    const {width, height} = this.extent;
    this.cross = [Math.round(width / 2), Math.round(height / 2)];
    this.svg.tabIndex = 0;
    this.svg.setAttribute("role", "application");
    this.svg.setAttribute("aria-label", "Photograph to mark a region on");
    this.svg.setAttribute("aria-describedby", "how");
    this.clear();
    this.svg.focus({preventScroll: true});
  }

  end() {
    this.form.hidden = true;
    this.button.ariaExpanded = "false";
    this.figure?.stage.classList.remove("marking");
    this.svg?.removeAttribute("tabindex");
    const held = this.form.contains(document.activeElement) || document.activeElement === this.svg;
    this.clear();
    if (held) this.button.focus({preventScroll: true});
  }

  clear() {
    this.corners = [];
    this.isClosed = false;
    find("#how").textContent = HOW[this.tool];
    find("#mark-said").textContent = "";
    find("#mark-said").classList.remove("wrong");
    this.redraw();
  }

  say(text, isWrong) {
    find("#mark-said").textContent = text;
    find("#mark-said").classList.toggle("wrong", isWrong);
  }

  // ---- Pointer.
  placeOf(event) {
    const box = this.svg.getBoundingClientRect(), {width, height} = this.extent;
    const within = (value, most) => Math.round(Math.max(0, Math.min(value, most)) * 10) / 10;
    return [within((event.clientX - box.left) / box.width * width, width),
      within((event.clientY - box.top) / box.height * height, height)];
  }

  press(event) {
    if (!this.isOpen || event.button !== 0) return;
    event.preventDefault();
    this.svg.focus({preventScroll: true});
    const place = this.placeOf(event);
    if (this.tool === "rectangle") {
      this.svg.setPointerCapture(event.pointerId);
      this.start = place;
      this.isClosed = false;
      this.corners = [];
    } else {
      this.corner(place);
    }
  }

  drag(event) {
    if (!this.isOpen) return;
    this.cross = this.placeOf(event);
    if (this.start) this.corners = rectangle(this.start, this.cross);
    this.redraw();
  }

  release(event) {
    if (!this.start) return;
    this.corners = rectangle(this.start, this.placeOf(event));
    this.start = null;
    this.isClosed = area(this.corners) > 0;
    if (!this.isClosed) this.corners = [];
    this.redraw();
  }

  corner(place) {
    if (this.isClosed) this.corners = [];
    this.isClosed = false;
    const scale = this.svg.getBoundingClientRect().width / this.extent.width;
    const [first] = this.corners;
    const isBack = this.corners.length > 2
      && Math.hypot(place[0] - first[0], place[1] - first[1]) * scale < NEAR;
    if (isBack) this.close();
    else this.corners.push(place);
    this.redraw();
  }

  close() {
    if (this.corners.length > 2) this.isClosed = true;
    else this.say("A polygon has at least three corners.", true);
    this.redraw();
  }

  // ---- Keyboard.
  type(event) {
    if (!this.isOpen) return;
    const {width, height} = this.extent, step = STEPS[event.key];
    if (step) {
      const far = event.shiftKey ? 1 : Math.max(1, Math.round(Math.max(width, height) / 40));
      const moved = (value, by, most) => Math.max(0, Math.min(value + far * by, most));
      this.cross = [moved(this.cross[0], step[0], width), moved(this.cross[1], step[1], height)];
      if (this.from) this.corners = rectangle(this.from, this.cross);
    } else if (event.key === " ") {
      this.set();
    } else if (event.key === "Enter") {
      if (this.tool === "polygon") this.close();
    } else if (event.key === "Backspace") {
      this.corners.pop();
      this.isClosed = false;
    } else if (event.key === "Escape") {
      event.stopPropagation();
      this.from = null;
      if (this.corners.length) this.clear();
      else this.end();
    } else {
      return;
    }
    event.preventDefault();
    this.redraw();
  }

  set() {
    if (this.tool === "polygon") {
      this.corner([...this.cross]);
    } else if (this.from) {
      this.corners = rectangle(this.from, this.cross);
      this.isClosed = area(this.corners) > 0;
      this.from = null;
    } else {
      this.from = [...this.cross];
      this.isClosed = false;
      this.corners = [];
    }
  }

  // ---- Drawing and sending.
  redraw() {
    if (!this.figure) return;
    const text = (corners) => corners.map((one) => one.join(",")).join(" ");
    const shapes = this.figure.picture.marks.map((corners) =>
      draw("polygon", {points: text(corners), class: "sent"}));
    if (this.corners.length) {
      shapes.push(draw(this.isClosed || this.tool === "rectangle" ? "polygon" : "polyline",
        {points: text(this.corners), class: "new"}));
      for (const [x, y] of this.corners) shapes.push(dot(x, y));
    }
    if (this.isOpen && this.cross) shapes.push(...cross(this.cross, this.extent));
    this.svg.replaceChildren(...shapes);
  }

  async send() {
    if (!this.isClosed) {
      this.say(`Draw the region first. ${HOW[this.tool]}`, true);
      return;
    }
    const {picture} = this.figure, polygon = this.corners;
    const mark = {note: find("#mark-note").value.trim(), class: find("#mark-class").value, polygon};
    try {
      const {image} = await sendMark(picture.file, mark);
      picture.marks.push(polygon);
      this.clear();
      find("#mark-note").value = "";
      this.say(`Saved as ${image}.`, false);
    } catch (error) {
      this.say(error.message, true);
    }
  }
}

const rectangle = ([x0, y0], [x1, y1]) => [[x0, y0], [x1, y0], [x1, y1], [x0, y1]];
const area = ([[x0, y0], , [x1, y1]]) => Math.abs((x1 - x0) * (y1 - y0));

/** A round corner of the same size whatever the image's: a line of no length with round ends. */
function dot(x, y) {
  return draw("path", {d: `M${x},${y}h0`, class: "corner"});
}

function cross([x, y], {width, height}) {
  const far = Math.max(width, height) / 30;
  return [draw("path", {class: "cross",
    d: `M${x - far},${y}H${x + far}M${x},${y - far}V${y + far}`})];
}
