// Pixels: from the server's PNGs to the canvases that lie over a photograph.

// As in segops/report/overlay.py: lightness rises all the way.
const HEAT = [[40, 11, 84], [122, 28, 109], [203, 65, 73], [247, 140, 20], [252, 240, 140]];
const OPAQUE_FROM = 0.6;
const VEIL = [0, 0, 0, 165];

export function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (one) => one.charCodeAt(0));
}

async function pixelsOf(base64) {
  const blob = new Blob([bytesOf(base64)], {type: "image/png"});
  const plain = {colorSpaceConversion: "none", premultiplyAlpha: "none"};
  const bitmap = await createImageBitmap(blob, plain);
  const context = canvasOf(bitmap.width, bitmap.height).getContext("2d",
    {willReadFrequently: true});
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return context.getImageData(0, 0, context.canvas.width, context.canvas.height);
}

export function canvasOf(width, height) {
  return Object.assign(document.createElement("canvas"), {width, height});
}

export const rgbOf = (color) => [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));

/** Class ids of a palette PNG: `{width, height, values}`. */
export async function classIds(base64, classes) {
  const {data, width, height} = await pixelsOf(base64);
  const values = new Uint8Array(width * height);
  const colors = classes.map((one) => rgbOf(one.color));
  const known = new Map(colors.map(([r, g, b], id) => [(r << 16) | (g << 8) | b, id]));
  let before = -1, id = 0; // neighbours mostly have one colour
  for (let pixel = 0, at = 0; pixel < values.length; pixel += 1, at += 4) {
    const color = (data[at] << 16) | (data[at + 1] << 8) | data[at + 2];
    if (color !== before) {
      before = color;
      // Some browsers change pixels a little, so that pages cannot recognise their users.
      id = known.get(color) ?? nearest(colors, data[at], data[at + 1], data[at + 2]);
    }
    values[pixel] = id;
  }
  return {width, height, values};
}

function nearest(colors, red, green, blue) {
  const far = ([r, g, b]) => (r - red) ** 2 + (g - green) ** 2 + (b - blue) ** 2;
  return colors.reduce((best, color, id) => (far(color) < far(colors[best]) ? id : best), 0);
}

/** Values 0..255 of a grey PNG: `{width, height, values}`. */
export async function greyValues(base64) {
  const {data, width, height} = await pixelsOf(base64);
  const values = new Uint8Array(width * height);
  for (let pixel = 0; pixel < values.length; pixel += 1) values[pixel] = data[4 * pixel];
  return {width, height, values};
}

/** A colour as a canvas holds it in 32 bits: the first byte is red on every machine of today. */
const packed = ([red, green, blue, alpha]) =>
  ((alpha << 24) | (Math.round(blue) << 16) | (Math.round(green) << 8) | Math.round(red)) >>> 0;

/** Draw values as the colours `[r, g, b, alpha]` of a table; a value may have an outline. */
function colored({width, height, values}, table, outline = null) {
  const canvas = canvasOf(width, height);
  const image = new ImageData(width, height);
  const drawn = new Uint32Array(image.data.buffer);
  const inner = table.map(packed);
  const edge = outline === null ? [] : outline.map((one) => (one === null ? 0 : packed(one)));
  for (let pixel = 0; pixel < values.length; pixel += 1) {
    const value = values[pixel];
    const isEdge = edge[value]
      && (((pixel + 1) % width !== 0 && values[pixel + 1] !== value)
        || (pixel + width < values.length && values[pixel + width] !== value));
    drawn[pixel] = isEdge ? edge[value] : inner[value];
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

/** Classes in their colours over the photograph: background is clear, a class has an outline. */
export function tinted(ids, classes, background, lit) {
  const isShown = (one) => (lit === null ? one.name !== background : one.id === lit);
  const table = classes.map((one) => (isShown(one) ? [...rgbOf(one.color), 255] : [0, 0, 0, 0]));
  const outline = classes.map((one) =>
    (isShown(one) ? [...rgbOf(one.color).map((value) => (value >> 1) + 127), 255] : null));
  return colored(ids, table, outline);
}

/** The mask in its own colours; beside a class that is lit the others are dark. */
export function plain(ids, classes, lit) {
  const strength = (one) => (lit === null || one.id === lit ? 1 : 0.2);
  return colored(ids, classes.map((one) =>
    [...rgbOf(one.color).map((value) => value * strength(one)), 255]));
}

/** Darkens all but a class. */
export function veil(ids, classes, lit) {
  return colored(ids, classes.map((one) => (one.id === lit ? [0, 0, 0, 0] : VEIL)));
}

/** Values 0..255 as heat; with `clear`, zero is transparent. */
export function heat(grey, clear) {
  const table = Array.from({length: 256}, (_, level) => {
    const place = (level / 255) * (HEAT.length - 1);
    const stop = Math.min(Math.floor(place), HEAT.length - 2);
    const color = HEAT[stop].map((low, channel) =>
      low + (place - stop) * (HEAT[stop + 1][channel] - low));
    return [...color, clear ? 255 * Math.min(level / 255 / OPAQUE_FROM, 1) : 255];
  });
  return colored(grey, table);
}

/** Lay a canvas over a photograph; resolves to a PNG. */
export function flattened(photo, canvases, {width, height}) {
  const canvas = canvasOf(width, height);
  const context = canvas.getContext("2d");
  if (photo !== null) context.drawImage(photo, 0, 0, width, height);
  for (const [layer, strength] of canvases) {
    context.globalAlpha = strength;
    context.imageSmoothingEnabled = layer.width !== width;
    context.drawImage(layer, 0, 0, width, height);
  }
  return new Promise((yes) => canvas.toBlob(yes, "image/png"));
}
