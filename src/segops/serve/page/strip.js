// The strip of images: a thumbnail each, with what became of it.

import {all, find, make} from "./dom.js";

const SAID = {waiting: "waits", working: "is being predicted", done: "predicted"};
const SIGNS = {waiting: "", working: "…", done: "✓", failed: "!"};

/** Add an image's thumbnail; `choose` is called when a person chooses it. */
export function add(picture, choose) {
  const image = make("img", {src: picture.url, alt: "", loading: "lazy", decoding: "async"});
  const ending = picture.name.split(".").pop().slice(0, 5).toUpperCase();
  image.addEventListener("error", () => image.replaceWith(make("b", {textContent: ending})));
  picture.thumb = make("button", {className: "thumb", type: "button", title: picture.name},
    image, make("i", {ariaHidden: "true"}));
  picture.thumb.addEventListener("click", () => choose(picture));
  find("#strip").append(picture.thumb);
  say(picture);
}

/** Show an image's state. */
export function say(picture) {
  const {thumb, state} = picture;
  thumb.dataset.state = state;
  thumb.lastElementChild.textContent = SIGNS[state];
  thumb.ariaLabel = `${picture.name}: ${SAID[state] ?? picture.failure}`;
}

/** Show which image is chosen; the strip is one stop of the Tab key. */
export function mark(picture) {
  for (const one of all(".thumb")) {
    const isChosen = one === picture.thumb;
    one.ariaCurrent = String(isChosen);
    one.tabIndex = isChosen ? 0 : -1;
  }
  picture.thumb.scrollIntoView({block: "nearest", inline: "nearest"});
}

/** Let the arrow keys, Home and End move among the thumbnails. */
export function listen() {
  find("#strip").addEventListener("keydown", (event) => {
    const thumbs = all(".thumb"), at = thumbs.indexOf(document.activeElement);
    const to = {ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: thumbs.length - 1}[event.key];
    if (at < 0 || to === undefined || !thumbs[to]) return;
    event.preventDefault();
    thumbs[to].click();
    thumbs[to].focus();
  });
}
