// Takes images that a person drops, chooses or pastes, also whole folders.

import {find} from "./dom.js";

const IMAGE = /\.(jpe?g|jfif|jpe|png|webp|tiff?|bmp|gif|avif|heic|heif|jp2)$/i;
export const MOST = 1000;

/**
 * Call `take` with the files of every drop, choice and paste.
 *
 * @param take Gets `(files, passedOver)`: files of a folder that are no images are passed over.
 */
export function listen(take) {
  const files = find("#files"), folder = find("#folder"), intake = find("#intake");
  find("#choose").addEventListener("click", () => files.click());
  find("#choose-folder").addEventListener("click", () => folder.click());
  files.addEventListener("change", () => {
    take([...files.files], 0);
    files.value = ""; // the same file may be chosen again
  });
  folder.addEventListener("change", () => {
    takeFolder([...folder.files], [], take);
    folder.value = "";
  });

  addEventListener("dragover", (event) => {
    event.preventDefault();
    intake.classList.add("over");
  });
  addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) intake.classList.remove("over");
  });
  addEventListener("drop", async (event) => {
    event.preventDefault();
    intake.classList.remove("over");
    const entries = [...event.dataTransfer.items].filter((one) => one.kind === "file")
      .map((one) => one.webkitGetAsEntry());
    const alone = [...event.dataTransfer.files];
    const folders = entries.filter((one) => one !== null && one.isDirectory);
    if (!folders.length) {
      if (alone.length) take(alone, 0);
      return;
    }
    const single = alone.filter((_, at) => !entries[at]?.isDirectory);
    takeFolder((await Promise.all(folders.map(within))).flat(), single, take);
  });
  addEventListener("paste", (event) => {
    const pasted = [...event.clipboardData.files];
    if (pasted.length) take(pasted, 0);
  });
}

function takeFolder(files, alone, take) {
  const images = files.filter((one) => one.type.startsWith("image/") || IMAGE.test(one.name));
  images.sort((a, b) => pathOf(a).localeCompare(pathOf(b), undefined, {numeric: true}));
  take([...alone, ...images], files.length - images.length);
}

const pathOf = (file) => file.webkitRelativePath || file.name;

/** All files within a folder that was dropped, also those of its folders. */
async function within(folder) {
  const reader = folder.createReader(), found = [];
  for (;;) {
    const some = await new Promise((yes, no) => reader.readEntries(yes, no));
    if (!some.length) return found;
    for (const one of some) {
      if (one.isDirectory) found.push(...await within(one));
      else found.push(await new Promise((yes, no) => one.file(yes, no)));
    }
  }
}
