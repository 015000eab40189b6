// The table of classes: shares, lighting, explanations.

import {find, make, nameOf, percent} from "./dom.js";

/**
 * Show the classes of a picture's predictions.
 *
 * @param picture The picture.
 * @param models The models, the first leads the order.
 * @param state `lit` and `explained`.
 * @param light Called with a class when a person chooses it.
 * @param explain Called with a class's name; null where the runtime explains none.
 */
export function show(picture, models, state, light, explain) {
  const columns = models.map((model) => {
    const {result} = picture.answers.get(model.key) ?? {};
    return {model, shares: new Map(result?.classes.map((one) => [one.name, one.share]))};
  });
  const held = document.activeElement?.dataset?.focus;
  const rows = allClasses(models).map((one) =>
    ({one, shares: columns.map(({shares}) => shares.get(one.name))}));
  const isSeen = ({shares}) => shares.some((share) => share > 0);
  const seen = rows.filter(isSeen).sort((a, b) =>
    (b.shares[0] ?? 0) - (a.shares[0] ?? 0) || (b.shares[1] ?? 0) - (a.shares[1] ?? 0));
  const absent = rows.filter((row) => !isSeen(row));
  const isPredicted = columns.some(({shares}) => shares.size);

  find("#legend thead").replaceChildren(heading(columns, explain));
  find("#legend tbody").replaceChildren(
    ...seen.map((row) => line(row, columns, state, light, explain)));
  find("#absent").hidden = !isPredicted || !absent.length;
  find("#absent summary").textContent =
    `${absent.length} ${absent.length === 1 ? "class" : "classes"} without a pixel`;
  find("#absent tbody").replaceChildren(
    ...absent.map((row) => line(row, columns, state, light, explain)));
  if (held) {
    const again = [...document.querySelectorAll("[data-focus]")]
      .find((one) => one.dataset.focus === held);
    again?.focus();
  }
}

/** The classes of all models, each name once. */
function allClasses(models) {
  const found = new Map();
  for (const model of models) {
    for (const one of model.classes) if (!found.has(one.name)) found.set(one.name, one);
  }
  return [...found.values()];
}

function heading(columns, explain) {
  const row = make("tr", {}, make("th", {scope: "col", textContent: "Class"}));
  for (const {model} of columns) {
    row.append(make("th", {scope: "col", className: "n",
      textContent: columns.length > 1 ? shortOf(model) : "Share"}));
  }
  if (explain) row.append(make("th", {}, make("span", {className: "unseen",
    textContent: "Explanation"})));
  return row;
}

const shortOf = (model) => (model.version ? `version ${model.version}` : nameOf(model));

function line({one, shares}, columns, state, light, explain) {
  const swatch = make("span", {className: "swatch"});
  swatch.style.background = one.color;
  const button = make("button", {className: "class", type: "button"},
    swatch, make("span", {className: "name", textContent: one.name}));
  button.ariaPressed = String(state.lit === one.name);
  button.dataset.focus = `light ${one.name}`;
  button.addEventListener("click", () => light(one.name));
  const row = make("tr", {}, make("th", {scope: "row"}, button));
  for (const share of shares) row.append(cell(share, columns.length > 1));
  if (explain) {
    const why = make("button", {className: "plain", type: "button", textContent: "Explain",
      ariaLabel: `Explain ${one.name}: where the network looks for it`});
    why.ariaPressed = String(state.explained === one.name);
    why.dataset.focus = `explain ${one.name}`;
    why.addEventListener("click", () => explain(one.name));
    row.append(make("td", {className: "why"}, why));
  }
  return row;
}

function cell(share, isBeside) {
  const text = make("span", {textContent: share === undefined ? "–" : percent(share)});
  if (isBeside) return make("td", {className: "n"}, text);
  const bar = make("i");
  bar.style.width = `${100 * (share ?? 0)}%`;
  return make("td", {}, make("div", {className: "measure"},
    make("span", {className: "track"}, bar), text));
}
