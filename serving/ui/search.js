// The search box: names that hold a text, as links below it.

import { h, named } from "./dom.js";

const WAIT_MS = 200;
const LEAST = 2;

/** Search while the user types into `box`, and show the matches in `list`; `go(href)` opens the first by Enter. */
export function searching({ box, list, ask, go }) {
  let turn = 0;
  let waiting = 0;
  const close = () => { list.hidden = true; };
  async function search() {
    const text = box.value.trim();
    const mine = ++turn;
    if (text.length < LEAST) return close();
    const { body, refused } = await ask(`/v1/search?q=${encodeURIComponent(text)}`);
    if (mine !== turn) return;
    const matches = body?.matches ?? [];
    list.replaceChildren(...(matches.length ? matches.map(entry) : [h("li", { class: "quiet" }, refused ?? "nothing has that in its name")]));
    list.hidden = false;
  }
  box.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(search, WAIT_MS); });
  box.addEventListener("keydown", (event) => {
    const first = list.hidden ? null : list.querySelector("a");
    if (event.key === "Escape") { box.value = ""; close(); box.blur(); }
    if (event.key === "Enter" && first) { go(first.getAttribute("href")); close(); box.blur(); }
    if (event.key === "ArrowDown" && first) { event.preventDefault(); first.focus(); }
  });
  list.addEventListener("click", close);
  document.addEventListener("focusin", (event) => { if (event.target !== box && !list.contains(event.target)) close(); });
}

const entry = (match) => h("li", {}, h("a", { href: `/${match.kind}?id=${encodeURIComponent(match.id)}` }, named(match.name), h("small", {}, ` ${match.kind}`)));
