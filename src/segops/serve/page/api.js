// Asks the server. A key stays in this module's memory: it is written nowhere.

let key = "";

export function useKey(text) {
  key = text.trim();
}

/** What the server answered instead: its status and its sentence. */
export class Refusal extends Error {
  constructor(status, message, wait = 0) {
    super(message);
    this.status = status;
    this.wait = wait;
  }
}

const BUSY = [429, 503];
const MOST_TRIES = 60;
const LONGEST_WAIT = 10;

/** Ask once, or again where the server is busy and says when to come back. */
async function ask(path, options = {}, waiting = () => {}) {
  const headers = {...options.headers, ...(key ? {"X-API-Key": key} : {})};
  for (let turn = 1; ; turn += 1) {
    let answer;
    try {
      answer = await fetch(path, {...options, headers});
    } catch {
      throw new Refusal(0, "The server does not answer. Check that `segops serve` still runs.");
    }
    if (answer.ok) return answer;
    const refused = await refusal(answer);
    if (!BUSY.includes(refused.status) || !refused.wait || turn >= MOST_TRIES) throw refused;
    waiting(refused);
    await new Promise((yes) => setTimeout(yes, 1000 * Math.min(refused.wait, LONGEST_WAIT)));
  }
}

async function refusal(answer) {
  const wait = Number(answer.headers.get("Retry-After")) || 0;
  try {
    const {error} = await answer.json();
    return new Refusal(answer.status, error.message, wait);
  } catch {
    return new Refusal(answer.status, `The server answered ${answer.status}.`, wait);
  }
}

/** The models: `{models: [{key, name, version, classes, ...}], marks, ...}`. */
export async function askModel(waiting) {
  return (await ask("/model", {}, waiting)).json();
}

/**
 * Predict an image.
 *
 * @param file The image.
 * @param model Key of the model.
 * @param asked What the answer holds beside the shares: mask, confidence_map, polygons, explain.
 * @returns `{model, results: [result]}`
 */
export async function predict(file, model, asked, waiting) {
  const body = new FormData();
  body.append("image", file, file.name || "image");
  const query = new URLSearchParams({model, ...asked});
  const options = {method: "POST", body, headers: {Accept: "application/json"}};
  return (await ask(`/predict?${query}`, options, waiting)).json();
}

/** Send a mark `{note, class, polygon}`; the answer names the file. */
export async function sendMark(file, mark) {
  const body = new FormData();
  body.append("image", file, file.name || "image");
  body.append("mark", JSON.stringify(mark));
  return (await ask("/marks", {method: "POST", body})).json();
}
