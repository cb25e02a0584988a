// Curves as steps: a value holds until the next, and is not drawn where it is unknown.

import { h } from "./dom.js";
import { day } from "./words.js";

const HEIGHT = 190;
const EDGE = { left: 46, right: 62, top: 10, bottom: 22 };
const STYLES = ["one", "two", "three"];
const DAY_MS = 86_400_000;
let drawn = 0;

/** A figure. `curves` are {name, points: [[ms, value]…]}, `dots` [ms, value]; `read` writes a value, `tick` one of the scale, `at` draws a line there. */
export function chart({ title, note, curves, dots = [], read, tick = read, end, floor, ceiling, at }) {
  const width = Math.min(620, Math.max(280, (document.getElementById("main").clientWidth || 620) - 4));
  const named = `chart-${(drawn += 1)}`;
  const values = [...curves.flatMap((curve) => curve.points), ...dots].filter(([, value]) => value !== null);
  const caption = h("figcaption", {}, h("b", {}, title), h("small", {}, note));
  if (!values.length) return h("figure", {}, caption, h("p", { class: "quiet" }, "nothing known yet"));
  const times = values.map(([ms]) => ms);
  const x = scale(Math.min(...times), Math.max(end, Math.max(...times) + DAY_MS), EDGE.left, width - EDGE.right);
  const seen = [...values.map(([, value]) => value), ...[floor, ceiling, at].filter((each) => each !== undefined)];
  const ticks = rounded(Math.min(...seen), Math.max(...seen));
  const y = scale(ticks[0], ticks.at(-1), HEIGHT - EDGE.bottom, EDGE.top);
  const ends = apart(curves.map((curve, place) => ({ curve, place, last: curve.points.at(-1)[1] })).filter(({ last }) => last !== null), y);
  const last = curves.map((curve) => `${curve.name} ${read(curve.points.at(-1)[1])}`).join(", ");
  const picture = h("svg", {
    viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", "aria-labelledby": `${named}-t ${named}-d`,
  },
  h("title", { id: `${named}-t` }, title),
  h("desc", { id: `${named}-d` }, `${note}. Last: ${last}. The table below has the values.`),
  ticks.map((value) => [
    h("line", { class: "grid", x1: EDGE.left, x2: width - EDGE.right, y1: y(value), y2: y(value) }),
    h("text", { class: "tick", x: EDGE.left - 6, y: y(value) + 4, "text-anchor": "end" }, tick(value)),
  ]),
  instants(x.from, x.to, width).map(([ms, text, anchor]) =>
    h("text", { class: "tick", x: x(ms), y: HEIGHT - 5, "text-anchor": anchor }, text)),
  at === undefined ? null : h("line", { class: "at", x1: EDGE.left, x2: width - EDGE.right, y1: y(at), y2: y(at) }),
  dots.filter(([, value]) => value !== null).map(([ms, value]) => h("circle", { class: "dot", cx: fixed(x(ms)), cy: fixed(y(value)), r: 2.6 })),
  curves.map((curve, place) => h("path", { class: `line ${curves.length > 1 ? STYLES[place] : "lone"}`, d: steps(curve.points, x, y) })),
  ends.map(({ curve, place, spot }) => h("text", { class: `end ${STYLES[place]}`, x: width - EDGE.right + 5, y: spot + 4 }, curve.name)));
  const reading = h("p", { class: "reading", "aria-hidden": "true" }, "\u00a0");
  follow(picture, reading, { curves, read, x });
  return h("figure", {}, caption, picture, reading, curves.length > 1 ? key(curves, read) : null);
}

/** Show the values at the instant under the pointer. */
function follow(picture, reading, { curves, read, x }) {
  const hair = h("line", { class: "hair", y1: EDGE.top, y2: HEIGHT - EDGE.bottom, visibility: "hidden" });
  picture.append(hair);
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect();
    const spot = ((event.clientX - box.left) * picture.viewBox.baseVal.width) / box.width;
    const ms = x.back(spot);
    if (ms < x.from || ms > x.to) return;
    for (const side of ["x1", "x2"]) hair.setAttribute(side, fixed(spot));
    hair.setAttribute("visibility", "visible");
    reading.textContent = `${day(ms)}: ${curves.map((curve) => `${curve.name} ${read(heldAt(curve.points, ms))}`).join(", ")}`;
  });
  picture.addEventListener("pointerleave", () => {
    hair.setAttribute("visibility", "hidden");
    reading.textContent = "\u00a0";
  });
}

function heldAt(points, ms) {
  let held = null;
  for (const [at, value] of points) {
    if (at > ms) break;
    held = value;
  }
  return held;
}

function key(curves, read) {
  return h("ul", { class: "key" }, curves.map((curve, place) => h("li", {},
    h("svg", { width: 26, height: 8, viewBox: "0 0 26 8", "aria-hidden": "true" }, h("path", { class: `line ${STYLES[place]}`, d: "M0 4H26" })),
    ` ${curve.name}: ${read(curve.points.at(-1)[1])}`)));
}

function scale(from, to, a, b) {
  const place = (value) => a + ((value - from) / (to - from || 1)) * (b - a);
  const back = (spot) => from + ((spot - a) / (b - a)) * (to - from);
  return Object.assign(place, { from, to, back });
}

const fixed = (value) => value.toFixed(1);

function steps(points, x, y) {
  const parts = [];
  let down = false;
  for (const [ms, value] of points) {
    if (value === null) {
      if (down) parts.push(`H${fixed(x(ms))}`);
      down = false;
    } else {
      parts.push(down ? `H${fixed(x(ms))}V${fixed(y(value))}` : `M${fixed(x(ms))} ${fixed(y(value))}`);
      down = true;
    }
  }
  if (down) parts.push(`H${fixed(x(x.to))}`);
  return parts.join("");
}

/** Three to six round values that hold a range. */
function rounded(low, high) {
  const range = high - low || Math.abs(high) || 1;
  const rough = range / 4;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((each) => each * unit).find((each) => each >= rough);
  const found = [];
  for (let value = Math.floor(low / step) * step; value < high + step * 0.999; value += step) found.push(Number(value.toPrecision(12)));
  return found.length > 1 ? found : [low, low + range];
}

function instants(from, to, width) {
  const count = width < 420 ? 3 : 5;
  return Array.from({ length: count }, (_, n) => {
    const ms = from + ((to - from) * n) / (count - 1);
    return [ms, day(ms), n === 0 ? "start" : n === count - 1 ? "end" : "middle"];
  });
}

/** The ends of curves, set apart so that their names can be read. */
function apart(ends, y) {
  const found = ends.map((mark) => ({ ...mark, spot: y(mark.last) })).sort((a, b) => a.spot - b.spot);
  for (let n = 1; n < found.length; n += 1) found[n].spot = Math.max(found[n].spot, found[n - 1].spot + 13);
  const over = found.length ? found.at(-1).spot - (HEIGHT - EDGE.bottom) : 0;
  if (over > 0) for (const mark of found) mark.spot -= over;
  return found;
}
