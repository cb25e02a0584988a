// Elements made of text alone: no text of a feed is read as markup.

const SVG = "http://www.w3.org/2000/svg";
const DRAWN = new Set(["svg", "g", "path", "line", "text", "circle", "rect", "title", "desc"]);

/** An element: attributes that are null or false are left out, children are elements or text. */
export function h(tag, attributes = {}, ...children) {
  const made = DRAWN.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [kind, heard] of Object.entries(value)) made.addEventListener(kind, heard);
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children.flat(Infinity).filter((each) => each !== null && each !== undefined && each !== false));
  return made;
}

/** A name as someone gave it: kept apart from the text beside it, whichever way it is written. */
export const named = (text) => h("bdi", {}, text ?? "–");

/** Put new children into a place. By its `data-key`, what had the focus keeps it and what was unfolded stays so. */
export function put(place, ...children) {
  const key = place.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  const folds = new Map([...place.querySelectorAll("details")].map((each) => [each.dataset.key, each.open]));
  place.replaceChildren(...children.flat(Infinity).filter((each) => each));
  for (const fold of place.querySelectorAll("details")) fold.open = folds.get(fold.dataset.key) ?? fold.open;
  if (key) [...place.querySelectorAll("[data-key]")].find((each) => each.dataset.key === key)?.focus({ preventScroll: true });
}

/** A link to a page of the desk. */
export function link(path, id, ...children) {
  return h("a", { href: `${path}?id=${encodeURIComponent(id)}`, "data-key": `${path} ${id}` }, ...children);
}
